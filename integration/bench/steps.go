package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// stepMetric is shimd's histogram of the steps inside its requests.
const stepMetric = "shimd_step_duration_seconds"

// Step is the mean of one step of a flow.
type Step struct {
	Name  string
	Count uint64
	Mean  float64 // milliseconds
}

// Steps reads, from shimd's metrics endpoint, where the time of all requests since its start went.
func Steps(ctx context.Context, url string) ([]Step, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("reading metrics of %s: %w", url, err)
	}
	family := families[stepMetric]
	if family == nil {
		return nil, fmt.Errorf("reading metrics of %s: %s is not there", url, stepMetric)
	}
	return steps(family), nil
}

func steps(family *dto.MetricFamily) []Step {
	var list []Step
	for _, metric := range family.GetMetric() {
		step := Step{Count: metric.GetHistogram().GetSampleCount()}
		ok := false
		for _, label := range metric.GetLabel() {
			switch label.GetName() {
			case "step":
				step.Name = label.GetValue()
			case "outcome":
				ok = label.GetValue() == "ok"
			}
		}
		if ok && step.Count > 0 {
			step.Mean = 1000 * metric.GetHistogram().GetSampleSum() / float64(step.Count)
			list = append(list, step)
		}
	}
	slices.SortFunc(list, func(a, b Step) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// WriteSteps prints steps that take any time worth telling.
func WriteSteps(w io.Writer, list []Step) error {
	const worthTelling = 0.01
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "step\tmean, ms\ttimes\t")
	for _, step := range list {
		if step.Mean >= worthTelling {
			fmt.Fprintf(table, "%s\t%.2f\t%d\t\n", step.Name, step.Mean, step.Count)
		}
	}
	return table.Flush()
}

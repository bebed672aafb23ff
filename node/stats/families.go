package stats

import (
	"cmp"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// families are metrics by name, made anew for each time that they are asked for: what is gone leaves no trace, and nothing is kept.
type families struct{ byName map[string]*dto.MetricFamily }

func newFamilies() *families { return &families{map[string]*dto.MetricFamily{}} }

// labels are pairs of names and values, in the order of names.
type labels [][2]string

// kind is a family without its metrics.
type kind struct {
	name, help string
	counter    bool
}

// add adds one metric. A zero time leaves its timestamp out: it is now.
func (f *families) add(k kind, value float64, when time.Time, with labels) {
	family := f.byName[k.name]
	if family == nil {
		of := dto.MetricType_GAUGE
		if k.counter {
			of = dto.MetricType_COUNTER
		}
		family = &dto.MetricFamily{Name: &k.name, Help: &k.help, Type: &of}
		f.byName[k.name] = family
	}
	metric := &dto.Metric{}
	for i := range with {
		metric.Label = append(metric.Label, &dto.LabelPair{Name: &with[i][0], Value: &with[i][1]})
	}
	if k.counter {
		metric.Counter = &dto.Counter{Value: &value}
	} else {
		metric.Gauge = &dto.Gauge{Value: &value}
	}
	if !when.IsZero() {
		milliseconds := when.UnixMilli()
		metric.TimestampMs = &milliseconds
	}
	family.Metric = append(family.Metric, metric)
}

// list is in the order of names, as a page of metrics is.
func (f *families) list() []*dto.MetricFamily {
	list := make([]*dto.MetricFamily, 0, len(f.byName))
	for _, family := range f.byName {
		list = append(list, family)
	}
	slices.SortFunc(list, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return list
}

// gatherTimeout bounds how long one page of metrics is collected for.
const gatherTimeout = 10 * time.Second

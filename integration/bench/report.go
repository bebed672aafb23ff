package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteTable writes the report for people.
func (r *Report) WriteTable(to io.Writer) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "%s, ms\tp50\tp95\tp99\t\n", r.Runtime)
	for _, l := range r.Latencies {
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t\n", l.Name, l.P50, l.P95, l.P99)
	}
	fmt.Fprintf(table, "pods a second, %d workers\t%.1f\t\t\t\n", r.ChurnWorkers, r.PodsPerSec)
	if i := r.Idle; i != nil {
		fmt.Fprintf(table, "processes a pod, %d pods at rest\t%.2f\t\t\t\n", i.Pods, i.ProcessesPerPod)
		fmt.Fprintf(table, "PSS a pod, MiB\t%.3f\t\t\t\n", i.PSSPerPodMiB)
		fmt.Fprintf(table, "PSS without pods, MiB\t%.1f\t\t\t\n", i.EmptyPSSMiB)
		fmt.Fprintf(table, "PSS with pods, MiB\t%.1f\t\t\t\n", i.FullPSSMiB)
		fmt.Fprintf(table, "idle CPU, %% of a core\t%.2f\t\t\t\n", i.CPUPercent)
	}
	return table.Flush()
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(to io.Writer) error {
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

package status

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Table writes a status for people.
func Table(out io.Writer, node Node, now time.Time) error {
	if node.Runtime.Error != "" {
		fmt.Fprintf(out, "The container runtime does not answer: %s\n\n", node.Runtime.Error)
	}
	if node.FolderError != "" {
		fmt.Fprintf(out, "The folder of pod files: %s\n\n", node.FolderError)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tPOD\tCONTAINER\tSTATE\tREADY\tRESTARTS\tAGE\tIP\tREASON")
	for _, pod := range node.Pods {
		fmt.Fprintf(table, "%s\t%s\t\t%s\t%s\t%d\t%s\t%s\t%s\n", pod.Namespace, pod.Name, pod.Phase, ready(pod), restartsOf(pod),
			age(pod.StartedAt, now), or(strings.Join(pod.IPs, ",")), reason(pod.Reason, pod.Message))
		for _, c := range pod.Containers {
			name := c.Name
			if c.Init {
				name += " (init)"
			}
			fmt.Fprintf(table, "\t\t%s\t%s\t%t\t%d\t%s\t\t%s\n", name, c.State, c.Ready, c.Restarts, age(c.StartedAt, now), containerReason(c))
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	if len(node.Files) > 0 {
		fmt.Fprintln(out, "\nFiles that do not run as they are:")
	}
	for _, file := range node.Files {
		fmt.Fprintf(out, "  %s: %s\n", file.Name, file.Error)
	}
	return nil
}

func ready(pod Pod) string {
	count, all := 0, 0
	for _, c := range pod.Containers {
		if c.Init {
			continue
		}
		all++
		if c.Ready {
			count++
		}
	}
	return fmt.Sprintf("%d/%d", count, all)
}

func restartsOf(pod Pod) uint32 {
	var sum uint32
	for _, c := range pod.Containers {
		sum += c.Restarts
	}
	return sum
}

func containerReason(c Container) string {
	text := reason(c.Reason, c.Message)
	if c.State == "terminated" {
		return strings.TrimSpace(fmt.Sprintf("exit code %d, %s", c.ExitCode, text))
	}
	if c.Last != nil {
		text = strings.TrimSpace(fmt.Sprintf("%s (last run: %s, exit code %d)", strings.TrimSuffix(text, "-"), c.Last.Reason, c.Last.ExitCode))
	}
	return text
}

// reason is on one line, whatever a container or a runtime said.
func reason(reason, message string) string {
	text := reason
	if message != "" {
		text = strings.TrimPrefix(text+": "+message, ": ")
	}
	return or(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text))
}

func or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func age(since, now time.Time) string {
	if since.IsZero() {
		return "-"
	}
	d := now.Sub(since)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

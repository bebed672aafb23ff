package bench

import "strings"

// Use is what some processes take together.
type Use struct {
	PSS   int64   // proportional set size, bytes
	CPU   float64 // seconds since they began
	Count int
}

// UseOf looks at the processes of this PID namespace that which chooses by PID and name (the first 15 bytes of the program's).
func UseOf(which func(pid int, name string) bool) (Use, error) {
	all, err := listProcesses()
	if err != nil {
		return Use{}, err
	}
	var chosen []process
	for _, p := range all {
		if which(p.pid, strings.TrimSpace(p.name)) {
			chosen = append(chosen, p)
		}
	}
	pss, err := totalPSS(chosen)
	return Use{PSS: pss, CPU: float64(totalTicks(chosen)) / userHz, Count: len(chosen)}, err
}

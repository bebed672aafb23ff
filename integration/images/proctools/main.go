// Command proctools holds the two process tools that Debian's busybox lacks and critest calls: `ipcs -m` and `pgrep NAME`.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	status, err := run(filepath.Base(os.Args[0]), os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		status = 2
	}
	os.Exit(status)
}

func run(name string, args []string) (int, error) {
	switch name {
	case "ipcs":
		shm, err := os.ReadFile("/proc/sysvipc/shm")
		if err != nil {
			return 0, fmt.Errorf("listing shared memory: %w", err)
		}
		_, err = os.Stdout.Write(shm)
		return 0, err
	case "pgrep":
		if len(args) != 1 {
			return 0, fmt.Errorf("one name is wanted, not %q", args)
		}
		return pgrep(args[0])
	}
	return 0, fmt.Errorf("this program is ipcs or pgrep by its name")
}

// pgrep prints the processes whose name contains the given one; status 1 when there is none.
func pgrep(name string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	status := 1
	for _, file := range files {
		comm, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		if strings.Contains(string(bytes.TrimSpace(comm)), name) {
			fmt.Println(filepath.Base(filepath.Dir(file)))
			status = 0
		}
	}
	return status, nil
}

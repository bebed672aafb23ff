// Command sh is the shell of the test images: busybox's, whose messages specs compare word by word, but bash where the environment has names that
// busybox's would drop (data-1). Either is run in its place.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

const (
	busybox = "/usr/bin/busybox"
	bash    = "/usr/bin/bash-static"
)

func main() {
	// busybox looks at its own name for what it shall be; that of a script's interpreter may be anything.
	args := append([]string{"sh"}, os.Args[1:]...)
	if strings.HasSuffix(os.Args[0], "/sh") {
		args[0] = os.Args[0]
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], syscall.Exec(shell(os.Environ()), args, os.Environ()))
	os.Exit(126)
}

// shell is the one that passes on the whole environment.
func shell(environment []string) string {
	for _, variable := range environment {
		name, _, _ := strings.Cut(variable, "=")
		strange := func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}
		if strings.ContainsFunc(name, strange) {
			return bash
		}
	}
	return busybox
}

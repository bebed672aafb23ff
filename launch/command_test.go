package launch

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestGoldenCommand(t *testing.T) {
	names := newDescriptors([3]*os.File{}).names
	golden(t, "command", compileCommand(names, &specs.Process{Args: []string{"/usr/sbin/runc", "--version"}, Env: []string{"PATH=/usr/bin"}}))
}

func TestCommandNeedsAnAbsolutePath(t *testing.T) {
	for _, args := range [][]string{nil, {"runc"}, {"./runc"}, {""}} {
		if l, err := PrepareCommand(CommandInput{Args: args}); err == nil {
			l.Close()
			t.Errorf("%q was taken", args)
		}
	}
}

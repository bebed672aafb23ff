package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// The logs are what runc 1.1 and crun 1.8 wrote.
func TestLastError(t *testing.T) {
	for name, c := range map[string]struct{ log, want string }{
		"runc": {`{"level":"warning","msg":"a warning","time":"2026-11-22T14:07:14Z"}
{"level":"error","msg":"runc create failed: unable to start container process: exec: \"no\": executable file not found in $PATH","time":"2026-11-22T14:07:14Z"}
`, `runc create failed: unable to start container process: exec: "no": executable file not found in $PATH`},
		"crun":         {`{"msg":"cgroups in hybrid mode not supported","level":"error","time":"2026-11-22T14:07:14.994Z"}`, "cgroups in hybrid mode not supported"},
		"the last one": {"{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"fatal\",\"msg\":\"second\"}\n{\"level\":\"info\",\"msg\":\"third\"}\n", "second"},
		"not JSON":     {"something happened\n{\"level\":", ""},
		"another type": {`{"level":7,"msg":["x"]}`, ""},
		"empty":        {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(file, []byte(c.log), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := lastError(file); got != c.want {
				t.Errorf("%q", got)
			}
		})
	}
	if got := lastError(filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("%q of a log that is not there", got)
	}
}

func TestProcessOfAnExternalRuntime(t *testing.T) {
	k := &runtimeCommand{program: "/usr/sbin/runc", dir: t.TempDir()}
	if _, err := k.process(); err == nil {
		t.Error("a process without a pid file")
	}
	for _, text := range []string{"", "0", "1", "-1", "12x", "99999999999999999999"} {
		if err := os.WriteFile(k.pidFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := k.process(); !errdefs.IsInternal(err) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

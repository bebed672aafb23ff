package launch

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A container that may trace everything in it looks at whatever appears while execs run. It must see no process with more rights than its own, and none
// with a descriptor beyond the streams and the report.
func TestExecsAreWatched(t *testing.T) {
	dir := image(t)
	spec := testSpec("sh", "-c", `
		echo up
		while [ ! -e /tmp/stop ]; do
			for p in /proc/[0-9]*; do
				[ $p = /proc/1 ] && continue
				while read -r name value; do case $name in CapPrm:|CapEff:|CapBnd:) echo "$name$value";; esac; done < $p/status
				for fd in $p/fd/*; do case ${fd##*/} in [012*]) ;; *) echo "descriptor ${fd##*/}";; esac; done
			done 2>/dev/null
		done`)
	caps := append(spec.Process.Capabilities.Bounding, "CAP_SYS_PTRACE")
	spec.Process.Capabilities.Bounding, spec.Process.Capabilities.Effective, spec.Process.Capabilities.Permitted = caps, caps, caps
	in, out := input(t, dir, spec)
	l, err := PrepareContainer(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	pid, report := start(t, l)
	if _, failed, err := ReadReport(report); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	l.Close()
	in.Stdio[1].Close()
	seen := make(chan map[string]int)
	go func() {
		lines := map[string]int{}
		buf, rest := make([]byte, 65536), ""
		for {
			n, err := out.Read(buf)
			parts := strings.Split(rest+string(buf[:n]), "\n")
			rest = parts[len(parts)-1]
			for _, line := range parts[:len(parts)-1] {
				lines[line]++
			}
			if err != nil {
				seen <- lines
				return
			}
		}
	}()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	process := *spec.Process
	process.Args = []string{"true"}
	for n := range 60 {
		process.NoNewPrivileges = n%2 == 0
		if res := runExec(t, ExecInput{Process: &process, PID: pid, PIDFD: pidfd, Spec: spec, Seccomp: allowAll()}); res.err != nil {
			t.Fatal(res.err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "tmp/stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, _ = syscall.Wait4(pid, nil, 0, nil)
	allowed := regexp.MustCompile(`^(Cap(Prm|Eff|Bnd):00000000000800e3|descriptor 3|up)$`)
	for line, times := range <-seen {
		if !allowed.MatchString(line) {
			t.Errorf("seen %d times: %s", times, line)
		}
	}
}

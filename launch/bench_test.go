package launch

import (
	"context"
	"os"
	"syscall"
	"testing"
)

func benchmarkInput(b *testing.B) (ContainerInput, string) {
	dir := image(b)
	in, _ := input(b, dir, testSpec("true"))
	return in, dir
}

func BenchmarkPrepareContainer(b *testing.B) {
	in, dir := benchmarkInput(b)
	for b.Loop() {
		b.StopTimer()
		in.Rootfs = rootfs(b, dir)
		b.StartTimer()
		l, err := PrepareContainer(context.Background(), in)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		l.Close()
		in.Rootfs.Close()
		b.StartTimer()
	}
}

// From the clone to the report that the execve is done.
func BenchmarkLaunch(b *testing.B) {
	in, dir := benchmarkInput(b)
	for b.Loop() {
		b.StopTimer()
		in.Rootfs = rootfs(b, dir)
		l, err := PrepareContainer(context.Background(), in)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		pid, report := start(b, l)
		_, failed, err := ReadReport(report)
		b.StopTimer()
		if failed != nil || err != nil {
			b.Fatal(failed, err)
		}
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		_ = report.Close()
		l.Close()
		in.Rootfs.Close()
		b.StartTimer()
	}
}

func BenchmarkExec(b *testing.B) {
	spec := testSpec()
	pid, pidfd := running(b, image(b), spec, nil)
	process := *spec.Process
	process.Args = []string{"true"}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	in := ExecInput{Process: &process, PID: pid, PIDFD: pidfd, Spec: spec, Stdio: [3]*os.File{null, null, null}}
	for b.Loop() {
		l, err := PrepareExec(context.Background(), in)
		if err != nil {
			b.Fatal(err)
		}
		first, report := start(b, l)
		second, failed, err := ReadReport(report)
		if failed != nil || err != nil {
			b.Fatal(failed, err)
		}
		_, _ = syscall.Wait4(first, nil, 0, nil)
		_, _ = syscall.Wait4(second, nil, 0, nil)
		_ = report.Close()
		l.Close()
	}
}

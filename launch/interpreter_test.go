package launch

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// run executes a program with /dev/null as its standard streams and extra as descriptors 4 and up, and answers its report and exit code.
func run(t testing.TB, p *Program, extra ...*os.File) (pid int, failed *Failure, status syscall.WaitStatus) {
	t.Helper()
	exe, err := p.Executable(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	child, report := start(t, &Launch{Program: p, Executable: exe, Files: append([]*os.File{null, null, null, nil}, extra...)})
	pid, failed, err = ReadReport(report)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(child, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	return pid, failed, status
}

// start is the keeper's part, as small as it can be.
func start(t testing.TB, l *Launch) (pid int, report *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	t.Cleanup(func() { r.Close() })
	files := make([]uintptr, len(l.Files))
	for i, f := range l.Files {
		if f == nil {
			f = w
		}
		files[i] = f.Fd()
	}
	attr := &syscall.ProcAttr{Files: files, Sys: &syscall.SysProcAttr{}}
	if l.NewPIDNamespace {
		attr.Sys.Cloneflags = unix.CLONE_NEWPID
	}
	if l.CgroupDir != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(l.CgroupDir.Fd())
	}
	// The child renumbers in the room right above the highest of its descriptors, so the program must be far from there.
	exe, err := unix.FcntlInt(l.Executable.Fd(), unix.F_DUPFD_CLOEXEC, 500)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(exe)
	program, args := "/proc/self/fd/"+strconv.Itoa(exe), []string{"launch"}
	if emulator := os.Getenv("SHIMD_TEST_EMULATOR"); emulator != "" { // an absolute path, for the interpreter of another architecture
		program, args = emulator, []string{emulator, "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(l.Executable.Fd()))}
	}
	pid, err = syscall.ForkExec(program, args, attr)
	if err != nil {
		t.Fatal(err)
	}
	return pid, r
}

func testProgram() *Program {
	return &Program{files: []string{"stdin", "stdout", "stderr", "report"}}
}

func TestInterpreterReportsTheFailedOp(t *testing.T) {
	p := testProgram()
	p.do("", sysUmask, num(0o22))
	p.do("", sysClose, num(99)).ignoring(unix.EACCES, unix.EBADF)
	p.do("", sysClose, num(98)).ignoring(unix.EACCES, unix.EPERM)
	_, failed, status := run(t, p)
	if failed == nil || *failed != (Failure{Op: 2, Errno: int(unix.EBADF)}) {
		t.Errorf("failed = %v, want op 2 with EBADF", failed)
	}
	if status.ExitStatus() != FailedExitCode {
		t.Errorf("exit status %d", status.ExitStatus())
	}
}

func TestInterpreterSlotsAndSkips(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := testProgram()
	out := p.file("out")
	null := p.openat("", cwd(), "/dev/null", unix.O_RDONLY, "O_RDONLY")
	p.do("", sysRead, p.value(null), p.mem(make([]byte, 8), "buf"), num(8)).thenSkip(1)
	p.write("", out, "skipped")
	p.do("", sysClose, num(99)).ignoring(unix.EBADF).orSkip(2)
	p.write("", out, "skipped")
	p.write("", out, "skipped")
	p.write("", out, "reached")
	p.do("", sysExitGroup, num(7))
	_, failed, status := run(t, p, w)
	w.Close()
	var got bytes.Buffer
	_, _ = got.ReadFrom(r)
	if failed != nil || status.ExitStatus() != 7 || got.String() != "reached" {
		t.Errorf("failed %v, status %d, wrote %q", failed, status.ExitStatus(), got.String())
	}
}

func TestInterpreterReparents(t *testing.T) {
	p := testProgram()
	p.reparent("")
	p.do("", sysExitGroup, num(9))
	pid, failed, status := run(t, p)
	if failed != nil && failed.Errno == int(unix.ENOSYS) && os.Getenv("SHIMD_TEST_EMULATOR") != "" {
		t.Skip("the emulator has no clone3")
	}
	if failed != nil || pid <= 0 || status.ExitStatus() != 0 {
		t.Fatalf("pid %d, failed %v, status %d", pid, failed, status.ExitStatus())
	}
	var second syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &second, 0, nil); err != nil || second.ExitStatus() != 9 {
		t.Errorf("waiting for the sibling: %v, status %d", err, second.ExitStatus())
	}
}

func TestReadReportRefusesNonsense(t *testing.T) {
	for name, raw := range map[string]string{
		"short":         "\x01\x00\x00\x00",
		"negative":      "\xfd\xff\xff\xff\x01\x00\x00\x00",
		"no errno":      "\x01\x00\x00\x00\x00\x00\x00\x00",
		"two pids":      "\xff\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff\x01\x00\x00\x00",
		"after failure": "\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00",
	} {
		if _, _, err := ReadReport(bytes.NewReader([]byte(raw))); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// Of three processes, the later ones may be faster.
	pid, failed, err := ReadReport(bytes.NewReader([]byte("\xff\xff\xff\xff\x05\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\xfe\xff\xff\xff\x04\x00\x00\x00")))
	if err != nil || pid != 5 || failed == nil || failed.Op != 2 {
		t.Errorf("failed, with one in between: %d, %v, %v", pid, failed, err)
	}
	_, failed, err = ReadReport(bytes.NewReader([]byte("\xff\xff\xff\xff\x05\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00")))
	if err != nil || failed == nil || !errors.Is(errnoOf(failed.Errno), unix.EPERM) {
		t.Errorf("reparented and failed: %v, %v", failed, err)
	}
}

// The interpreter is copied byte by byte, so it may not be long, and must hold no address of the place it was linked at.
func TestInterpreterIsSmall(t *testing.T) {
	code, err := interpreter()
	if err != nil || len(code) < 100 || len(code) > 400 {
		t.Errorf("%d bytes, %v", len(code), err)
	}
}

// Where vm.memfd_noexec forbids memory files.
func TestExecutableFile(t *testing.T) {
	dir := t.TempDir()
	text, data, err := testProgram().image()
	if err != nil {
		t.Fatal(err)
	}
	f, err := executableFile(dir, text, data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if emulator := os.Getenv("SHIMD_TEST_EMULATOR"); emulator != "" {
		t.Skip("the emulator runs memory files")
	}
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), []string{"launch"}, &syscall.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Errorf("%v, status %#x", err, status)
	}
}

// Whatever a program's strings are, its image is well formed and its text one line an op.
func FuzzProgram(f *testing.F) {
	f.Add("/bin/true", "a\x00b", "x=\n", uint8(3))
	f.Fuzz(func(t *testing.T, name, arg, env string, skip uint8) {
		p := testProgram()
		s := p.openat("", cwd(), name, unix.O_PATH, "O_PATH")
		p.do("", sysExecve, p.str(name), p.list([]string{name, arg}, quoted([]string{name, arg})), p.list([]string{env}, "env"))
		p.do("", sysClose, p.value(s)).ignoring(unix.EBADF).orSkip(uint16(skip))
		data, err := p.segment()
		if (err != nil) != (skip > 0) {
			t.Fatalf("skip %d: %v", skip, err)
		}
		if err == nil && len(data) < opsOffset+4*opSize {
			t.Errorf("%d bytes", len(data))
		}
		if lines := bytes.Count([]byte(p.String()), []byte("\n")); lines != len(p.ops)+len(p.files) {
			t.Errorf("%d lines for %d ops", lines, len(p.ops))
		}
	})
}

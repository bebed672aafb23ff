package launch

import (
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CommandInput is what a program of the host is launched from, such as an external OCI runtime. Descriptors stay the caller's.
type CommandInput struct {
	Args   []string // the first is the absolute path of the program
	Env    []string
	Stdio  [3]*os.File
	TmpDir string
}

// PrepareCommand prepares a program of the host, to be run by the keeper because what it leaves behind is to become the keeper's child.
// It runs with all rights, and gives away no other descriptors than the three.
func PrepareCommand(in CommandInput) (*Launch, error) {
	if len(in.Args) == 0 || !filepath.IsAbs(in.Args[0]) {
		return nil, invalid("command", "%q does not begin with an absolute path", in.Args)
	}
	fds := newDescriptors(in.Stdio)
	process := &specs.Process{Args: in.Args, Env: in.Env}
	p := compileCommand(fds.names, process)
	exe, err := p.Executable(in.TmpDir)
	if err != nil {
		return nil, fmt.Errorf("preparing %s: %w", in.Args[0], err)
	}
	return &Launch{Program: p, Executable: exe, Files: fds.files, what: "starting " + in.Args[0], where: "on the host", owned: []*os.File{exe}}, nil
}

func compileCommand(names []string, process *specs.Process) *Program {
	p := &Program{files: names}
	p.inherited(process)
	p.do("closing the keeper's descriptors", sysCloseRange, num(ReportFD+1), named(1<<32-1, "~0U"), num(0))
	p.do("closing the report at the execve", sysCloseRange, num(ReportFD), num(ReportFD), named(unix.CLOSE_RANGE_CLOEXEC, "CLOSE_RANGE_CLOEXEC"))
	p.do("starting a session", sysSetsid)
	p.execute(process)
	return p
}

package launch

import "os"

// Launch is everything that the keeper needs to start one process.
type Launch struct {
	Program    *Program
	Executable *os.File   // the program's executable
	Files      []*os.File // the child's descriptors 0, 1, 2, ...; Files[ReportFD] is nil, the keeper's report pipe

	NewPIDNamespace bool     // clone the child as the first process of a new PID namespace
	Reparents       bool     // the process that counts is the one whose pid is reported
	CgroupDir       *os.File // clone the child into this cgroup (v2)
	Console         *os.File // the master of the terminal
}

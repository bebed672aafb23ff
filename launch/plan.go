package launch

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// descriptors are what the child gets, by its numbers.
type descriptors struct {
	files []*os.File
	names []string
	owned []*os.File // those that this package opened
}

func newDescriptors(stdio [3]*os.File) *descriptors {
	return &descriptors{files: []*os.File{stdio[0], stdio[1], stdio[2], nil}, names: []string{"stdin", "stdout", "stderr", "report"}}
}

// add answers the child's number of a descriptor.
func (d *descriptors) add(name string, f *os.File) int {
	d.files, d.names = append(d.files, f), append(d.names, name)
	return len(d.files) - 1
}

// own adds one that is closed with the launch.
func (d *descriptors) own(name string, f *os.File) int {
	d.owned = append(d.owned, f)
	return d.add(name, f)
}

func (d *descriptors) close() {
	for _, f := range d.owned {
		_ = f.Close()
	}
	d.owned = nil
}

// place is where a mount goes: a descriptor of the place, or a path below a mount that the child makes.
type place struct {
	fd   int
	made int // index of the mount in the plan, from 1
	path string
}

// plannedMount is one mount of a container, prepared or to be made by the child.
type plannedMount struct {
	destination string
	at          place
	fd          int         // a detached mount
	filesystem  *filesystem // or one that only the child can make, in its own namespaces
}

// filesystem is one that shows the namespaces of who mounts it.
type filesystem struct {
	kind       string
	parameters []string
	attributes uint64
}

// membership is a namespace to join.
type membership struct {
	kind specs.LinuxNamespaceType
	fd   int
}

// containerPlan is everything that the program of a container is compiled from, with descriptors as the numbers that the child will see: all
// effects are done, the rest is pure. A descriptor's number is 0 when there is none.
type containerPlan struct {
	spec        *specs.Spec
	names       []string // of the descriptors
	lean, root  int
	hostProc    int
	cgroupTasks []int
	join        []membership // in spec order without mount, user and PID
	joinPID     int
	user        int    // user namespace
	unshare     uint64 // CLONE_NEW*
	newPID      bool   // a new PID namespace inside of the user namespace
	mounts      []plannedMount
	terminal    bool
	devpts      int   // of a terminal, to bind /dev/console from
	console     place // where to
	apparmor    bool  // the kernel has attr/apparmor
	process     processPlan
}

// processPlan is the part that containers and exec sessions share.
type processPlan struct {
	process    *specs.Process
	seccomp    []byte
	flags      uint64 // of seccomp(2)
	terminal   bool
	lastCap    int
	reparents  bool // clone as the last step but execve
	lateLimits bool // only soft limits are left to set
}

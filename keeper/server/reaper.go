package server

import (
	"errors"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// orphanGrace is how long an unknown child stays a zombie: long enough for the daemon to adopt a container that an external
// runtime left here and that ended at once, whose status would otherwise be lost before Linux 6.15.
const orphanGrace = 10 * time.Second

func pause() { time.Sleep(100 * time.Millisecond) }

// reaper removes children that nobody waits for: orphans that came to the keeper, the subreaper.
type reaper struct {
	mu       sync.Mutex
	known    map[int]struct{} // somebody waits for these
	starting int              // children may exist whose number is not known yet
	armed    bool
}

func newReaper() *reaper { return &reaper{known: map[int]struct{}{}} }

// hold forbids reaping until the release: a child is about to be made.
func (r *reaper) hold() {
	r.mu.Lock()
	r.starting++
	r.mu.Unlock()
}

func (r *reaper) release() {
	r.mu.Lock()
	r.starting--
	r.mu.Unlock()
}

func (r *reaper) add(pid int) {
	r.mu.Lock()
	r.known[pid] = struct{}{}
	r.mu.Unlock()
}

// claim makes a child known that a launch program names. It is false for what is no child, and for one that somebody waits for already: the
// program may be under the influence of a container, and what it names is killed if the start fails.
func (r *reaper) claim(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.known[pid]; taken {
		return false
	}
	if _, err := waitid(unix.P_PID, pid, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT); err != nil {
		return false
	}
	r.known[pid] = struct{}{}
	return true
}

func (r *reaper) disclaim(pid int) {
	r.mu.Lock()
	delete(r.known, pid)
	r.mu.Unlock()
}

// wait collects a child of which a pidfd is held, and forgets it. done is false as long as it runs; err ECHILD for one that is no child.
func (r *reaper) wait(pid, pidfd int) (st status, done bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := waitid(unix.P_PIDFD, pidfd, unix.WEXITED|unix.WNOHANG)
	if errors.Is(err, unix.EAGAIN) {
		return status{}, false, nil // a non-blocking pidfd says so instead of 0
	}
	if err != nil {
		delete(r.known, pid)
		return status{}, false, err
	}
	if info.pid == 0 {
		return status{}, false, nil
	}
	delete(r.known, pid)
	return info.decode(), true, nil
}

// orphansLater looks for orphans after the grace. SIGCHLD calls it.
func (r *reaper) orphansLater() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.armed {
		r.armed = true
		time.AfterFunc(orphanGrace, r.orphans)
	}
}

func (r *reaper) orphans() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed = false
	again := r.starting > 0
	for !again {
		info, err := waitid(unix.P_ALL, 0, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
		if err != nil || info.pid == 0 {
			return
		}
		if _, again = r.known[int(info.pid)]; again {
			break // somebody is about to wait for it; others may stand behind it
		}
		if _, err := waitid(unix.P_PID, int(info.pid), unix.WEXITED|unix.WNOHANG); err != nil {
			return
		}
	}
	r.armed = true
	time.AfterFunc(orphanGrace, r.orphans)
}

// status is how a process ended.
type status struct {
	code    int
	signal  int
	unknown bool
}

// siginfo is the kernel's siginfo_t as waitid fills it on 64-bit machines.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

func (i *siginfo) decode() status {
	const exited = 1 // CLD_EXITED; CLD_KILLED and CLD_DUMPED otherwise
	if i.code == exited {
		return status{code: int(i.status)}
	}
	return status{code: 128 + int(i.status), signal: int(i.status)}
}

func waitid(idType, id, options int) (*siginfo, error) {
	info := new(siginfo)
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, uintptr(idType), uintptr(id), uintptr(unsafe.Pointer(info)), uintptr(options|unix.WALL), 0, 0)
		switch errno {
		case 0:
			return info, nil
		case unix.EINTR:
		default:
			return nil, errno
		}
	}
}

// pidfdInfo is struct pidfd_info of Linux 6.13, as far as it goes there; later ones are longer.
type pidfdInfo struct {
	mask, cgroup             uint64
	pid, tgid, ppid          uint32
	ruid, rgid, euid, egid   uint32
	suid, sgid, fsuid, fsgid uint32
	exitCode                 int32
}

// pidfdGetInfo is PIDFD_GET_INFO for that size: _IOWR(0xFF, 11, struct pidfd_info).
const pidfdGetInfo = 3<<30 | 64<<16 | 0xFF<<8 | 11

func getInfo(pidfd int, mask uint64) (pidfdInfo, error) {
	info := &pidfdInfo{mask: mask}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(info))); errno != 0 {
		return pidfdInfo{}, errno
	}
	return *info, nil
}

// exitInfo reads the status of a process that its parent has reaped (Linux 6.15).
func exitInfo(pidfd int) (status, bool) {
	info, err := getInfo(pidfd, unix.PIDFD_INFO_EXIT)
	if err != nil || info.mask&unix.PIDFD_INFO_EXIT == 0 {
		return status{}, false
	}
	word := unix.WaitStatus(info.exitCode)
	if word.Signaled() {
		return status{code: 128 + int(word.Signal()), signal: int(word.Signal())}, true
	}
	return status{code: word.ExitStatus()}, true
}

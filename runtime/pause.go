package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch"
	"github.com/shimd/shimd/launch/mounts"
	"github.com/shimd/shimd/runtime/request"
)

// holdPIDNamespace starts the process that holds a PID namespace which the pod's containers share, and pins it. A pod whose containers have
// one each, which is Kubernetes' default, has no such process.
func (r *Runtime) holdPIDNamespace(ctx context.Context, s *sandbox) error {
	cfg := s.record.Config
	if !sharedPID(cfg) {
		return nil
	}
	var open opened
	defer open.close()
	in := launch.PauseInput{LeanMountNS: r.lean, TmpDir: s.dir, Join: make(map[specs.LinuxNamespaceType]*os.File)}
	join := func(kind specs.LinuxNamespaceType, name string) {
		in.Join[kind] = open.file(s.namespacePath(name))
	}
	if cfg.Namespaces.User != nil {
		join(specs.UserNamespace, "user")
	}
	if ownNetwork(cfg) {
		join(specs.NetworkNamespace, "net")
		join(specs.UTSNamespace, "uts")
	}
	if ownIPC(cfg) {
		join(specs.IPCNamespace, "ipc")
	}
	if open.err != nil {
		return fmt.Errorf("opening the sandbox's namespaces: %w", open.err)
	}
	if cgroup, err := r.podCgroup(s); err == nil && s.record.OwnsCgroup && r.Cgroups.Version() == 1 {
		entry, err := cgroup.Entry()
		if err != nil {
			return fmt.Errorf("opening the pod's cgroup: %w", err)
		}
		open.closers = append(open.closers, entry)
		in.CgroupTasks = entry.Tasks
	}
	prepared, err := launch.PreparePause(in)
	if err != nil {
		return err
	}
	defer prepared.Close()
	started, err := r.startProgram(ctx, s.pauseID(), prepared, nil, false)
	if err != nil {
		return fmt.Errorf("holding the shared PID namespace: %w", err)
	}
	defer started.PIDFD.Close()
	process, err := identify(started.PID)
	if err != nil {
		return fmt.Errorf("holding the shared PID namespace: the pause process has ended: %w", err)
	}
	if err := s.update(func(record *sandboxRecord) { record.Pause = process }); err != nil {
		return err
	}
	if err := pinNamespaces(s.dir, unix.CLONE_NEWPID, fmt.Sprintf("/proc/%d/ns", started.PID)); err != nil {
		return err
	}
	return pinProc(s)
}

// pinProc mounts the proc that shows the shared PID namespace, for containers to have a clone of.
func pinProc(s *sandbox) error {
	if err := os.Mkdir(s.procPath(), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("holding the shared PID namespace: %w", err)
	}
	namespace, err := os.Open(s.namespacePath("pid"))
	if err != nil {
		return fmt.Errorf("holding the shared PID namespace: %w", err)
	}
	defer namespace.Close()
	if err := launch.PinProc(namespace, s.procPath(), s.dir); err != nil {
		return fmt.Errorf("holding the shared PID namespace: %w", err)
	}
	return nil
}

// sharedProc clones the sandbox's proc for a container that joins the sandbox's PID namespace; nil for one that is in another.
func sharedProc(s *sandbox, joined *os.File) (*os.File, error) {
	if s.snapshot().Pause.PID == 0 {
		return nil, nil
	}
	shared, err := os.Stat(s.namespacePath("pid"))
	if err != nil {
		return nil, fmt.Errorf("looking at the shared PID namespace: %w", err)
	}
	// A container may name another one as its target, and so be in the sandbox's by a detour.
	if own, err := joined.Stat(); err != nil || !os.SameFile(shared, own) {
		return nil, err
	}
	proc, err := mounts.Clone(s.procPath(), false)
	if err != nil {
		return nil, fmt.Errorf("cloning the proc of the shared PID namespace: %w", err)
	}
	return proc, nil
}

// makeUserNamespace makes namespaces that a user namespace owns. A thread can't enter one, so a process that sleeps makes them, and goes when they are pinned.
func (r *Runtime) makeUserNamespace(ctx context.Context, s *sandbox, flags int, inside func() error) error {
	user := s.record.Config.Namespaces.User
	holder, err := launch.HoldNamespaces(uintptr(flags), specMappings(user.UIDs), specMappings(user.GIDs), s.dir)
	if err != nil {
		return err
	}
	defer holder.Close()
	if err := adoptNamespaces(s.dir, flags, holder.PID, inside); err != nil {
		return err
	}
	return r.giveToUserNamespace(s, user)
}

// giveToUserNamespace makes the namespace's root the owner of the files that its containers see in /etc.
func (r *Runtime) giveToUserNamespace(s *sandbox, user *request.UserNamespace) error {
	uid, gid := rootOnHost(user)
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		if err := os.Chown(s.filePath(name), int(uid), int(gid)); err != nil {
			return fmt.Errorf("giving the sandbox's files to its user namespace: %w", err)
		}
	}
	return nil
}

func specMappings(mappings []request.IDMapping) []specs.LinuxIDMapping {
	out := make([]specs.LinuxIDMapping, 0, len(mappings))
	for _, m := range mappings {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length})
	}
	return out
}

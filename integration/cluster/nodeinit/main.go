// Command nodeinit is the first process of a test cluster's node, and the way into it.
//
//	nodeinit init PLAN         mounts what the node sees, as PLAN says, then reaps what is orphaned until it is killed
//	nodeinit enter PID CMD...  runs a command in the namespaces of process PID
//	nodeinit run GROUP UID CMD...  becomes a command, in a control group, with the rights of a user
//
// With init it must be started in new mount, network, UTS, IPC and PID namespaces. What runs on a node, and what its files say, is package cluster's business.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/integration/cluster/nodeplan"
	"github.com/shimd/shimd/integration/controlgroup"
	"github.com/shimd/shimd/integration/namespaces"
)

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "nodeinit:", err)
		status = 1
	}
	os.Exit(status)
}

func run(args []string) (int, error) {
	switch {
	case len(args) == 2 && args[0] == "init":
		return 0, serve(args[1])
	case len(args) > 0 && args[0] == namespaces.Stage:
		return 0, namespaces.Exec(args[1:])
	case len(args) > 3 && args[0] == "run":
		return 0, become(args[1], args[2], args[3:])
	case len(args) > 2 && args[0] == "enter":
		pid, err := strconv.Atoi(args[1])
		if err != nil {
			return 0, fmt.Errorf("reading the process ID: %w", err)
		}
		return namespaces.Run(context.Background(), pid, args[2:]...)
	}
	return 0, errors.New("usage: nodeinit init PLAN, nodeinit enter PID COMMAND, or nodeinit run GROUP UID COMMAND")
}

// become executes a command. It returns only with an error.
func become(group, user string, command []string) error {
	if err := controlgroup.Join(group); err != nil {
		return err
	}
	uid, err := strconv.Atoi(user)
	if err != nil {
		return fmt.Errorf("reading the user ID: %w", err)
	}
	if uid != 0 {
		// syscall's, not x/sys's: these change all threads.
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
			return fmt.Errorf("becoming user %d: %w", uid, err)
		}
	}
	return fmt.Errorf("running %s: %w", command[0], unix.Exec(command[0], command, os.Environ()))
}

// serve makes the node, says so on descriptor 3, and stays.
func serve(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the node's plan: %w", err)
	}
	var plan nodeplan.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("reading the node's plan: %w", err)
	}
	// Before anything can be orphaned.
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := makeRoot(plan); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(plan.Hostname)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	// The end of standard input says that the interface is there.
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return fmt.Errorf("waiting for the network: %w", err)
	}
	if err := setUpNetwork(plan); err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	if _, err := ready.WriteString("ready"); err != nil {
		return fmt.Errorf("telling that the node is ready: %w", err)
	}
	ready.Close()
	for range children {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}

// setUpNetwork gives the node's interface its address, and makes the other end of it the way to everywhere.
func setUpNetwork(plan nodeplan.Plan) error {
	for _, name := range []string{"lo", "eth0"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding the interface %s: %w", name, err)
		}
		if name == "eth0" {
			address, err := netlink.ParseAddr(plan.Address)
			if err != nil {
				return fmt.Errorf("reading the node's address: %w", err)
			}
			if err := netlink.AddrAdd(link, address); err != nil {
				return fmt.Errorf("adding the node's address: %w", err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("raising the interface %s: %w", name, err)
		}
	}
	if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(plan.Gateway)}); err != nil {
		return fmt.Errorf("adding the default route: %w", err)
	}
	return nil
}

// makeRoot gives the node a root directory of its own: the machine's programs read-only, everything else the node's.
func makeRoot(plan nodeplan.Plan) error {
	steps := []struct {
		what string
		do   func() error
	}{
		// Private first, so that nothing made here appears outside.
		{"making mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"making the root a mount", func() error { return unix.Mount(plan.Root, plan.Root, "", unix.MS_BIND, "") }},
		{"mounting the machine's programs", func() error { return mountPrograms(plan) }},
		{"mounting /dev", func() error { return mountDev(plan.Root) }},
		{"mounting /proc", func() error { return mount("proc", plan.Root, "proc", "") }},
		{"mounting /sys", func() error { return mountSys(plan.Root) }},
		{"mounting /run", func() error { return mount("tmpfs", plan.Root, "run", "mode=0755") }},
		{"hiding tunables", func() error { return hideTunables(plan) }},
		{"changing the root", func() error { return changeRoot(plan.Root) }},
		// Now shared: the agent's mounts must reach the runtime's containers and theirs the agent.
		{"making mounts shared", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func mount(kind, root, dir, options string) error {
	return unix.Mount(kind, filepath.Join(root, dir), kind, unix.MS_NOSUID|unix.MS_NODEV, options)
}

// mountPrograms binds directories of the machine, read-only.
func mountPrograms(plan nodeplan.Plan) error {
	for target, source := range plan.ReadOnly {
		target = filepath.Join(plan.Root, target)
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("%s read-only: %w", source, err)
		}
	}
	return nil
}

func mountDev(root string) error {
	if err := unix.Mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", root, "dev/shm", "mode=1777"); err != nil {
		return fmt.Errorf("its shm: %w", err)
	}
	// Message queues belong to the IPC namespace; who has no directory for them does without.
	if _, err := os.Stat("/dev/mqueue"); err == nil {
		if err := mount("mqueue", root, "dev/mqueue", ""); err != nil {
			return fmt.Errorf("its mqueue: %w", err)
		}
	}
	return nil
}

// mountSys mounts a sysfs that shows the node's network, and in it what the machine has mounted in its own: control groups and the like.
func mountSys(root string) error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	if err := mount("sysfs", root, "sys", ""); err != nil {
		return err
	}
	var last string
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasPrefix(fields[4], "/sys/") || (last != "" && strings.HasPrefix(fields[4], last+"/")) {
			continue // not there, or brought by the one above it
		}
		last = fields[4]
		if err := unix.Mount(last, filepath.Join(root, last), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("its %s: %w", last, err)
		}
	}
	return nil
}

// hideTunables puts files over settings of the kernel that are the whole machine's: agents want certain values, and write them.
func hideTunables(plan nodeplan.Plan) error {
	for name, file := range plan.Tunables {
		target := filepath.Join(plan.Root, "proc/sys", name)
		if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
			continue // not on this kernel
		}
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func changeRoot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// The old root is put on top of the new one, and taken off.
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old one: %w", err)
	}
	return os.Chdir("/")
}

package namespaces_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/integration/namespaces"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "sleep-inside" {
		time.Sleep(time.Minute)
		return
	}
	os.Exit(m.Run())
}

// What is started is inside; this program's own threads are where they were, the main one too, whichever thread the call came from.
func TestStart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed to make namespaces")
	}
	inside := exec.Command("/proc/self/exe", "sleep-inside")
	inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID}
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = inside.Process.Kill()
		_ = inside.Wait() // killed
	}()
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", inside.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		cmd := exec.Command("/bin/sh", "-c", "echo process $$")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := namespaces.Start(inside.Process.Pid, cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
		if id := out.String(); !strings.Contains(id, "process ") || strings.Contains(id, fmt.Sprintf("process %d\n", cmd.Process.Pid)) {
			t.Fatalf("it isn't in the other PID namespace: %s", id)
		}
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if found, err := os.Readlink(task); err == nil && found == theirs {
			t.Errorf("%s is in the other namespace", task)
		}
	}
	if found, err := os.Readlink("/proc/self/ns/net"); err != nil || found == theirs {
		t.Errorf("this program is in %s: %v", found, err)
	}
}

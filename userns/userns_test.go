package userns

import (
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"syscall"
	"testing"
)

// What is made belongs to the namespace's root, and what belongs to others can still be written.
func TestBecomeRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const uid, gid = 100000, 200000
	dir := t.TempDir() // of root, closed to others
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	done := make(chan error)
	go func() {
		goruntime.LockOSThread()
		err := BecomeRoot(uid, gid)
		done <- errors.Join(err, os.WriteFile(file, nil, 0o600))
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != uid || st.Gid != gid {
		t.Errorf("owner of what was made: %+v, want %d:%d", info.Sys(), uid, gid)
	}
}

// Package leaks finds what a test left behind on the machine: mounts, control groups, processes, network namespaces, links,
// addresses, nftables tables, open descriptors and files. It compares two snapshots; it cleans nothing up.
package leaks

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Scope says where to look beyond what is the machine's.
type Scope struct {
	Files []string // directories whose entries are compared, one level deep
	// Ignore are substrings of entries that do not count: what other programs on the machine do meanwhile.
	Ignore []string
}

// Snapshot is what there was at one time: by kind, each thing in words.
type Snapshot map[string][]string

// Take looks at the machine.
func Take(scope Scope) (Snapshot, error) {
	kinds := []struct {
		name string
		list func() ([]string, error)
	}{
		{"mount", mounts},
		{"control group", controlGroups},
		{"process", processes},
		{"network namespace", networkNamespaces},
		{"link", links},
		{"address", addresses},
		{"nftables table", tables},
		{"descriptor", descriptors},
		{"file", func() ([]string, error) { return files(scope.Files) }},
	}
	snapshot := Snapshot{}
	for _, kind := range kinds {
		found, err := kind.list()
		if err != nil {
			return nil, fmt.Errorf("listing every %s: %w", kind.name, err)
		}
		snapshot[kind.name] = slices.DeleteFunc(found, func(entry string) bool {
			return slices.ContainsFunc(scope.Ignore, func(word string) bool { return strings.Contains(entry, word) })
		})
	}
	return snapshot, nil
}

// Since is what is there now and was not before, one line each: "mount left behind: ...".
func (now Snapshot) Since(before Snapshot) []string {
	var left []string
	for kind, entries := range now {
		had := map[string]int{}
		for _, entry := range before[kind] {
			had[entry]++
		}
		for _, entry := range entries {
			if had[entry]--; had[entry] < 0 {
				left = append(left, kind+" left behind: "+entry)
			}
		}
	}
	slices.Sort(left)
	return left
}

// Settle takes snapshots until nothing is left over from before or patience ends: the kernel removes network namespaces and control groups a
// little later than their last user goes.
func Settle(before Snapshot, scope Scope, patience time.Duration) ([]string, error) {
	deadline := time.Now().Add(patience)
	for {
		now, err := Take(scope)
		if err != nil {
			return nil, err
		}
		left := now.Since(before)
		if len(left) == 0 || time.Now().After(deadline) {
			return left, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// mounts are those of this mount namespace, without the IDs that change.
func mounts() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		if len(fields) < 10 {
			continue
		}
		found = append(found, fields[4]+" ("+strings.Join(fields[slices.Index(fields, "-")+1:][:2], " ")+", root "+fields[3]+")")
	}
	return found, nil
}

func controlGroups() ([]string, error) {
	var found []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err == nil && entry.IsDir() {
			found = append(found, path)
		}
		return err
	})
	return found, err
}

func processes() ([]string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		pid := strings.Split(file, "/")[2]
		if err != nil || len(line) == 0 || pid == strconv.Itoa(os.Getpid()) {
			continue // ended meanwhile, a thread of the kernel's, or this test
		}
		found = append(found, pid+" "+string(bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte(" "))))
	}
	return found, nil
}

func networkNamespaces() ([]string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil {
			seen[target] = true
		}
	}
	found := make([]string, 0, len(seen))
	for name := range seen {
		found = append(found, name)
	}
	return found, nil // pinned ones are among the mounts
}

func links() ([]string, error) {
	list, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, link := range list {
		found = append(found, link.Attrs().Name+" ("+link.Type()+")")
	}
	return found, nil
}

func addresses() ([]string, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, address := range list {
		found = append(found, address.String())
	}
	return found, nil
}

func tables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	list, err := conn.ListTables()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, table := range list {
		found = append(found, fmt.Sprintf("%s (family %d)", table.Name, table.Family))
	}
	return found, nil
}

// descriptors are this process's own.
func descriptors() ([]string, error) { return DescriptorsOf(os.Getpid()) }

// DescriptorsOf lists what a process has open, without the inode numbers of pipes and sockets: it shows what kind grows.
func DescriptorsOf(pid int) ([]string, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil {
			continue // closed meanwhile
		}
		kind, _, _ := strings.Cut(target, ":[")
		if strings.HasSuffix(kind, "/fd") || strings.Contains(kind, "[event") {
			continue // the listing itself, and the Go runtime's poller
		}
		found = append(found, kind)
	}
	return found, nil
}

func files(directories []string) ([]string, error) {
	var found []string
	for _, directory := range directories {
		entries, err := os.ReadDir(directory)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			found = append(found, filepath.Join(directory, entry.Name()))
		}
	}
	return found, nil
}

// Report prints what a run of tests has left behind, and says whether that is nothing.
func Report(left []string) bool {
	for _, line := range left {
		fmt.Println("LEAK:", line)
	}
	if len(left) == 0 {
		fmt.Println("nothing was left behind")
	}
	return len(left) == 0
}

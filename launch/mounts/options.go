package mounts

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Options are the options of an OCI mount, taken apart.
type Options struct {
	Bind      bool // bind or rbind
	Recursive bool // rbind

	Set, Clear                   uint64 // MOUNT_ATTR_* of the mount itself
	RecursiveSet, RecursiveClear uint64 // MOUNT_ATTR_* of it and all below (rro, rnosuid, ...)

	Propagation          uint64 // MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE or 0
	PropagationRecursive bool

	IDMap          bool // idmap or ridmap
	IDMapRecursive bool

	Filesystem []string // what is left, for the file system: "size=64k", "mode=755"
	CopyUp     bool     // tmpcopyup
}

type attr struct {
	clear bool
	bits  uint64
}

func attributes() map[string]attr {
	return map[string]attr{
		"ro": {false, unix.MOUNT_ATTR_RDONLY}, "rw": {true, unix.MOUNT_ATTR_RDONLY},
		"nosuid": {false, unix.MOUNT_ATTR_NOSUID}, "suid": {true, unix.MOUNT_ATTR_NOSUID},
		"nodev": {false, unix.MOUNT_ATTR_NODEV}, "dev": {true, unix.MOUNT_ATTR_NODEV},
		"noexec": {false, unix.MOUNT_ATTR_NOEXEC}, "exec": {true, unix.MOUNT_ATTR_NOEXEC},
		"noatime": {false, unix.MOUNT_ATTR_NOATIME}, "atime": {true, unix.MOUNT_ATTR_NOATIME},
		"strictatime": {false, unix.MOUNT_ATTR_STRICTATIME}, "nostrictatime": {true, unix.MOUNT_ATTR_STRICTATIME},
		"relatime": {true, unix.MOUNT_ATTR__ATIME}, "norelatime": {true, 0}, // the field's zero, and so no bit of its own
		"nodiratime": {false, unix.MOUNT_ATTR_NODIRATIME}, "diratime": {true, unix.MOUNT_ATTR_NODIRATIME},
		"nosymfollow": {false, unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {true, unix.MOUNT_ATTR_NOSYMFOLLOW},
	}
}

func propagations() map[string]uint64 {
	return map[string]uint64{"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE}
}

// ParseOptions takes an OCI mount's options apart. The last of contradicting ones counts, as with mount(8).
func ParseOptions(options []string) (Options, error) {
	var o Options
	attrs, propagation := attributes(), propagations()
	for _, name := range options {
		if strings.ContainsAny(name, "\x00\n") {
			return Options{}, fmt.Errorf("mount option %q holds a control character: %w", name, errdefs.ErrInvalidArgument)
		}
		recursive, isRecursive := strings.CutPrefix(name, "r")
		switch {
		case name == "bind":
			o.Bind = true
		case name == "rbind":
			o.Bind, o.Recursive = true, true
		case name == "idmap":
			o.IDMap, o.IDMapRecursive = true, false
		case name == "ridmap":
			o.IDMap, o.IDMapRecursive = true, true
		case name == "tmpcopyup":
			o.CopyUp = true
		case name == "defaults", name == "async", name == "", name == "nomand", name == "auto":
		case propagation[name] != 0:
			o.Propagation, o.PropagationRecursive = propagation[name], false
		case isRecursive && propagation[recursive] != 0:
			o.Propagation, o.PropagationRecursive = propagation[recursive], true
		case hasKey(attrs, name):
			change(attrs[name], &o.Set, &o.Clear)
		case isRecursive && hasKey(attrs, recursive):
			change(attrs[recursive], &o.RecursiveSet, &o.RecursiveClear)
		default:
			o.Filesystem = append(o.Filesystem, name)
		}
	}
	return o, nil
}

func hasKey(attrs map[string]attr, name string) bool {
	_, ok := attrs[name]
	return ok
}

func change(a attr, set, clear *uint64) {
	if a.clear {
		*set, *clear = *set&^a.bits, *clear|a.bits
	} else {
		*set, *clear = *set|a.bits, *clear&^a.bits
	}
}

// atime makes a mount_setattr of attributes: the access time is a field there, not a bit, so it has to be cleared as a whole to be changed.
func atime(set, clear uint64) (uint64, uint64) {
	const field = uint64(unix.MOUNT_ATTR__ATIME)
	if (set|clear)&field != 0 {
		clear |= field
		if set&unix.MOUNT_ATTR_NOATIME != 0 {
			set &^= unix.MOUNT_ATTR_STRICTATIME
		}
	}
	return set, clear
}

// Package imageuser finds the identity of a container's process: user, groups and home from the request and from /etc/passwd and /etc/group of the image.
//
// Both files and the image's USER are untrusted: they are opened inside the root only, must be regular files, are read in bounded memory
// (CVE-2025-4437, CVE-2026-47262), and no number in them that does not parse becomes zero, which is root (CVE-2024-40635, CVE-2026-46680).
package imageuser

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/request"
)

// maxID is the highest ID taken: some kernels' and programs' IDs are signed, and the kubelet checks the same.
const maxID = 1<<31 - 1

// Resolve finds the user of a container. root is the directory of its root file system, O_PATH or not.
//
// The request's user comes before the image's. Errors are of kind invalid argument.
func Resolve(root *os.File, imageUser string, sec request.Security) (ocispec.User, error) {
	passwd, err := openInRoot(root, "etc/passwd")
	if err != nil {
		return ocispec.User{}, err
	}
	if passwd != nil {
		defer passwd.Close()
	}
	group, err := openInRoot(root, "etc/group")
	if err != nil {
		return ocispec.User{}, err
	}
	if group != nil {
		defer group.Close()
	}
	return lookup(imageUser, sec, newDatabase(passwd), newDatabase(group))
}

// lookup is Resolve on opened files.
func lookup(imageUser string, sec request.Security, passwd, group *database) (ocispec.User, error) {
	var none ocispec.User
	user, groupName, source, err := choose(imageUser, sec)
	if err != nil {
		return none, err
	}
	entry, err := findUser(user, passwd)
	if err != nil {
		return none, fmt.Errorf("%s %q: %w", source, user, err)
	}
	out := ocispec.User{UID: entry.uid, GID: entry.gid, Name: entry.name, Home: entry.home}
	switch {
	case sec.RunAsGroup != nil:
		if out.GID, err = checkID(*sec.RunAsGroup); err != nil {
			return none, fmt.Errorf("linux.security_context.run_as_group: %w", err)
		}
	case groupName != "":
		if out.GID, err = findGroup(groupName, group); err != nil {
			return none, fmt.Errorf("the image's USER %q: %w", imageUser, err)
		}
	}

	// The primary group comes first: without it among the groups, a permission denied to the group would not bind the process (CVE-2022-2995).
	groups := []uint32{out.GID}
	add := func(gid uint32) {
		if !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
	}
	if !sec.StrictSupplementalGroups && entry.name != "" {
		members, err := memberships(entry.name, group)
		if err != nil {
			return none, err
		}
		for _, gid := range members {
			add(gid)
		}
	}
	for _, g := range sec.SupplementalGroups {
		gid, err := checkID(g)
		if err != nil {
			return none, fmt.Errorf("linux.security_context.supplemental_groups: %w", err)
		}
		add(gid)
	}
	out.Groups = groups
	return out, nil
}

// choose picks who is asked for, and the group if it is named beside.
func choose(imageUser string, sec request.Security) (user, group, source string, err error) {
	switch {
	case sec.RunAsUser != nil:
		uid, err := checkID(*sec.RunAsUser)
		if err != nil {
			return "", "", "", fmt.Errorf("linux.security_context.run_as_user: %w", err)
		}
		return strconv.FormatUint(uint64(uid), 10), "", "linux.security_context.run_as_user", nil
	case sec.RunAsUsername != "":
		return sec.RunAsUsername, "", "linux.security_context.run_as_username", nil
	case sec.RunAsGroup != nil:
		return "", "", "", invalid("linux.security_context.run_as_group needs run_as_user or run_as_username")
	}
	if imageUser == "" {
		return "0", "", "the default user", nil
	}
	user, group, _ = strings.Cut(imageUser, ":")
	if user == "" {
		// ":group" names no user; to take it for root would be a guess.
		return "", "", "", invalid("the image's USER %q names no user", imageUser)
	}
	return user, group, "the image's USER", nil
}

// findUser looks a user up. A number needs no entry; it is never taken for a name.
func findUser(user string, passwd *database) (passwdEntry, error) {
	uid, numeric, err := parseID(user)
	if err != nil {
		return passwdEntry{}, err
	}
	if !numeric && strings.ContainsAny(user, ":\n\r\x00") {
		return passwdEntry{}, invalid("not the name of a user")
	}
	var found *passwdEntry
	err = passwd.each(func(fields []string) bool {
		e, ok := parsePasswd(fields)
		if ok && ((numeric && e.uid == uid) || (!numeric && e.name == user)) {
			found = &e
			return false
		}
		return true
	})
	switch {
	case err != nil:
		return passwdEntry{}, fmt.Errorf("reading the image's /etc/passwd: %w", err)
	case found != nil:
		return *found, nil
	case numeric:
		return passwdEntry{uid: uid, home: "/"}, nil
	}
	return passwdEntry{}, invalid("no such user in the image's /etc/passwd")
}

func findGroup(name string, group *database) (uint32, error) {
	gid, numeric, err := parseID(name)
	if err != nil || numeric {
		return gid, err
	}
	found := false
	err = group.each(func(fields []string) bool {
		g, ok := parseGroup(fields)
		if ok && g.name == name {
			gid, found = g.gid, true
			return false
		}
		return true
	})
	if err != nil {
		return 0, fmt.Errorf("reading the image's /etc/group: %w", err)
	}
	if !found {
		return 0, invalid("no group %q in the image's /etc/group", name)
	}
	return gid, nil
}

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

// memberships lists the groups that name the user as a member.
func memberships(user string, group *database) ([]uint32, error) {
	var gids []uint32
	tooMany := errors.New("more than 65536 groups")
	over := false
	err := group.each(func(fields []string) bool {
		g, ok := parseGroup(fields)
		if ok && slices.Contains(strings.Split(g.members, ","), user) {
			gids = append(gids, g.gid)
		}
		over = len(gids) > maxGroups
		return !over
	})
	if over {
		err = tooMany
	}
	if err != nil {
		return nil, fmt.Errorf("reading the image's /etc/group: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	slices.Sort(gids)
	return slices.Compact(gids), nil
}

// parseID reads a number made of digits alone. What has other characters is a name; what is out of range is an error, never another number.
func parseID(s string) (id uint32, numeric bool, err error) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, true, invalid("%s is out of the range 0 to %d", s, maxID)
	}
	id, err = checkID(n)
	return id, true, err
}

func checkID(n int64) (uint32, error) {
	if n < 0 || n > maxID {
		return 0, invalid("%d is out of the range 0 to %d", n, maxID)
	}
	return uint32(n), nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

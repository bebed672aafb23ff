// Package security speaks to the kernel's mandatory access control: it finds out whether AppArmor and SELinux are there, loads the default
// AppArmor profile, and makes SELinux labels.
//
// Which container gets what is ocispec's, writing a label into a process the launch program's, and seccomp has a package of its own.
package security

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"text/template"
	"time"

	"github.com/containerd/errdefs"
)

// DefaultProfileName is the AppArmor profile of containers that ask for the runtime's default.
const DefaultProfileName = "shimd-default"

const profilesFile = "/sys/kernel/security/apparmor/profiles"

// AppArmorEnabled tells whether the kernel confines by AppArmor, and securityfs is mounted so that its profiles can be seen.
func AppArmorEnabled() bool {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(enabled), "Y") {
		return false
	}
	_, err = os.Stat(profilesFile)
	return err == nil
}

// AppArmorProfiles lists the names of the loaded profiles. Others load and remove profiles at any time, so it is read anew for each container that names one.
func AppArmorProfiles() (map[string]bool, error) {
	f, err := os.Open(profilesFile)
	if err != nil {
		return nil, fmt.Errorf("reading the loaded AppArmor profiles: %w", err)
	}
	defer f.Close()
	names := map[string]bool{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		if name := profileName(s.Text()); name != "" {
			names[name] = true
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("reading the loaded AppArmor profiles: %w", err)
	}
	return names, nil
}

// profileName takes the name out of a line "name (enforce)"; the name itself may have spaces and parentheses.
func profileName(line string) string {
	i := strings.LastIndex(line, " (")
	if i < 0 || !strings.HasSuffix(line, ")") {
		return ""
	}
	return line[:i]
}

// loadTimeout bounds apparmor_parser: half a second on a slow machine, where nothing is cached.
const loadTimeout = 30 * time.Second

// LoadDefault compiles the default profile and loads it into the kernel, by apparmor_parser: once, at the daemon's start. It replaces an older one of
// that name. ErrNotFound when the program is not installed.
func LoadDefault(ctx context.Context) error {
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		return fmt.Errorf("loading the AppArmor profile %s: apparmor_parser is not installed: %w", DefaultProfileName, errdefs.ErrNotFound)
	}
	text, err := defaultProfile(daemonProfile(), fileExists)
	if err != nil {
		return fmt.Errorf("loading the AppArmor profile %s: %w", DefaultProfileName, err)
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	// The profile goes in by standard input; -K leaves the cache on disk alone, -r replaces.
	cmd := exec.CommandContext(ctx, parser, "-K", "-r")
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading the AppArmor profile %s: %s: %w: %s", DefaultProfileName, parser, err, bytes.TrimSpace(out))
	}
	return nil
}

// daemonProfile is the profile that confines the daemon itself, without its mode; "unconfined" when there is none.
func daemonProfile() string {
	for _, file := range []string{"/proc/self/attr/apparmor/current", "/proc/self/attr/current"} {
		current, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		line := strings.TrimRight(string(current), "\n\x00")
		if name := profileName(line); name != "" {
			return name
		}
		break
	}
	return "unconfined"
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, os.ErrNotExist)
}

// defaultProfile is the text of the profile: what Docker and containerd confine with. Most is allowed, since namespaces and capabilities
// confine already; denied is what a container could reach the host's kernel by even so.
func defaultProfile(daemon string, exists func(string) bool) ([]byte, error) {
	if strings.ContainsAny(daemon, "\"\n{},") {
		return nil, fmt.Errorf("the daemon's own profile has the odd name %q: %w", daemon, errdefs.ErrInvalidArgument)
	}
	data := struct {
		Name, Daemon   string
		Tunables, Base bool
	}{DefaultProfileName, daemon, exists("/etc/apparmor.d/tunables/global"), exists("/etc/apparmor.d/abstractions/base")}
	var b bytes.Buffer
	err := template.Must(template.New("profile").Parse(profileText)).Execute(&b, data)
	return b.Bytes(), err
}

const profileText = `{{if .Tunables}}#include <tunables/global>
{{else}}@{PROC}=/proc/
{{end}}
profile {{.Name}} flags=(attach_disconnected,mediate_deleted) {
{{if .Base}}  #include <abstractions/base>
{{end}}
  network,
  capability,
  file,
  umount,

  # The daemon, and people on the host, signal containers; a container signals itself.
  signal (receive) peer=unconfined,
{{if ne .Daemon "unconfined"}}  signal (receive) peer="{{.Daemon}}",
{{end}}  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer={{.Name}},
  ptrace (trace,read,tracedby,readby) peer={{.Name}},

  # Files directly in /proc, and directories there that are not processes' nor sys.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  # Of /proc/sys only kernel/shm* can be written.
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/kcore rwklx,

  deny mount,

  # Of /sys only the cgroups below /sys/fs/cgroup can be written.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`

package runtime

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network"
	"github.com/shimd/shimd/runtime/request"
	"github.com/shimd/shimd/security"
)

// shmSize is the size of a pod's /dev/shm, as the field has it.
const shmSize = "67108864"

// hostname is the name in the sandbox's UTS namespace: the one asked for, else the node's.
func hostname(s *sandbox) string {
	if name := s.record.Config.Hostname; name != "" {
		return name
	}
	node, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return node
}

// writeSandboxFiles writes the files that containers without their own see in /etc.
func (r *Runtime) writeSandboxFiles(s *sandbox) error {
	if err := privateDir(s.files, s.record.Config.Namespaces.User); err != nil {
		return fmt.Errorf("making the sandbox's directory on disk: %w", err)
	}
	resolv, err := resolvConf(s.record.Config.DNS)
	if err != nil {
		return err
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil || ownNetwork(s.record.Config) {
		hosts = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	for name, content := range map[string][]byte{
		"hostname":    []byte(hostname(s) + "\n"),
		"hosts":       hosts,
		"resolv.conf": resolv,
	} {
		if err := os.WriteFile(filepath.Join(s.files, name), content, 0o644); err != nil {
			return fmt.Errorf("writing the sandbox's %s: %w", name, err)
		}
	}
	return r.labelSandboxFiles(s)
}

// addToHosts makes the pod's own name known in its hosts file.
func (r *Runtime) addToHosts(s *sandbox, ips []string) error {
	file, err := os.OpenFile(filepath.Join(s.files, "hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("adding the pod to its hosts file: %w", err)
	}
	defer file.Close()
	for _, ip := range ips {
		if _, err := fmt.Fprintf(file, "%s\t%s\n", ip, hostname(s)); err != nil {
			return fmt.Errorf("adding the pod to its hosts file: %w", err)
		}
	}
	return nil
}

// resolvConf renders what the client gave, or takes the node's.
func resolvConf(dns *request.DNSConfig) ([]byte, error) {
	if dns == nil {
		content, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("reading the node's resolv.conf: %w", err)
		}
		return content, nil
	}
	var b strings.Builder
	if len(dns.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Searches, " "))
	}
	for _, server := range dns.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return []byte(b.String()), nil
}

// mountShm gives the pod its /dev/shm, which its containers share.
func mountShm(s *sandbox) error {
	if !ownIPC(s.record.Config) {
		return nil
	}
	target := s.shmPath()
	if err := os.Mkdir(target, 0o711); err != nil && !os.IsExist(err) {
		return fmt.Errorf("making /dev/shm's mount point: %w", err)
	}
	options := "mode=1777,size=" + shmSize
	if user := s.record.Config.Namespaces.User; user != nil {
		uid, gid := rootOnHost(user)
		options += fmt.Sprintf(",uid=%d,gid=%d", uid, gid)
	}
	options = security.MountOptions(options, s.snapshot().Labels.Mount)
	if err := unix.Mount("shm", target, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting the pod's /dev/shm: %w", err)
	}
	return nil
}

// rootOnHost is who the user namespace's root is on the host.
func rootOnHost(user *request.UserNamespace) (uid, gid uint32) {
	find := func(mappings []request.IDMapping) uint32 {
		for _, m := range mappings {
			if m.ContainerID == 0 {
				return m.HostID
			}
		}
		return 0
	}
	return find(user.UIDs), find(user.GIDs)
}

// publishedPort translates a port mapping that is to be published on the host.
func publishedPort(mapping request.PortMapping) (network.PortMapping, error) {
	published := network.PortMapping{
		Protocol:      mapping.Protocol,
		ContainerPort: uint16(mapping.ContainerPort),
		HostPort:      uint16(mapping.HostPort),
	}
	if mapping.HostIP == "" {
		return published, nil
	}
	ip, err := netip.ParseAddr(mapping.HostIP)
	if err != nil {
		return published, fmt.Errorf("port mapping's host_ip %q: %w: %w", mapping.HostIP, err, errdefs.ErrInvalidArgument)
	}
	if !ip.IsUnspecified() {
		published.HostIP = ip
	}
	return published, nil
}

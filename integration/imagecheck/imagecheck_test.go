// Package imagecheck runs every image of Kubernetes' suites and of the examples on a shimd of its own, and looks whether what they are wanted for
// works in them. It builds none: images that are not in the cache yet are named, and not tested.
package imagecheck

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/registry"
	"github.com/shimd/shimd/integration/tools"
)

const programsVariable = "SHIMD_IMAGECHECK_PROGRAMS"

// client speaks to the daemon that all tests share; nil when nothing can be tested, and reason says why. kept are the images that there are.
var (
	client *criclient.Client
	kept   images.Set
	reason string
)

func TestMain(m *testing.M) {
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "imagecheck:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	ctx := context.Background()
	if os.Geteuid() != 0 {
		reason = "root is needed: namespaces, mounts and control groups"
		return m.Run(), nil
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		return 0, err
	}
	programs := os.Getenv(programsVariable)
	if programs == "" { // outside the enclosure, where modules can be had
		if programs, err = os.MkdirTemp("/var/tmp", "shimd-imagecheck-"); err != nil {
			return 0, fmt.Errorf("making a directory for programs: %w", err)
		}
		if err := errors.Join(tools.BuildShimd(ctx, root, programs), os.Setenv(programsVariable, programs)); err != nil {
			return 0, err
		}
	}
	enclosure.Enter(enclosure.Options{AtExit: func() error { return os.RemoveAll(programs) }})
	if kept, _, err = images.Kept(ctx, images.Options{Root: root}); err != nil {
		return 0, err
	}
	server, err := registry.Start(ctx, "127.0.0.1:0", kept)
	if err != nil {
		return 0, err
	}
	work, err := os.MkdirTemp("/var/tmp", "shimd-imagecheck-")
	if err != nil {
		return 0, fmt.Errorf("making a working directory: %w", err)
	}
	certs := filepath.Join(work, "certs.d")
	if err := server.WriteHosts(certs); err != nil {
		return 0, err
	}
	d, err := daemon.New(daemon.Config{Programs: programs, Dir: filepath.Join(work, "shimd"), CertsDir: certs})
	if err != nil {
		return 0, err
	}
	if err := d.Start(ctx); err != nil {
		return 0, err
	}
	if client, err = d.Client(); err != nil {
		return 0, err
	}
	status = m.Run()
	err = client.RemoveAll(ctx)
	client.Close()
	return status, errors.Join(err, d.Cleanup(ctx), server.Close(), os.RemoveAll(work))
}

// check is a command in an image, and what its output must contain.
type check struct {
	image   string
	command []string
	want    string
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func checks() []check {
	const e2e = "registry.k8s.io/e2e-test-images/"
	return []check{
		{images.Busybox, sh("env | grep ^data-1= && ls / && id -u && echo $0"), "data-1=x"},
		{images.E2EBusybox, sh("wget --help 2>&1; timeout 5 true && hostname && nslookup localhost 127.0.0.1; echo status $?"), "status"},
		{images.E2EBusybox, sh("trap 'echo got it; exit 0' TERM; kill $$; wait"), "got it"},
		{images.E2EBusybox, []string{"/bin/sh", "-c", "echo x > /proc/file"}, "/bin/sh: can't create /proc/file: "},
		{images.E2EBusybox, sh("env"), "data-1=x"},
		{images.CoreDNS, []string{"/coredns", "-version"}, "CoreDNS-1."},
		{images.CoreDNS, []string{"/coredns", "-plugins"}, "kubernetes\n"},
		{images.Etcd, []string{"etcd", "--version"}, "etcd Version"},
		{images.Etcd, []string{"/usr/local/bin/etcdctl", "version"}, "etcdctl version"},
		{images.Agnhost, []string{"/agnhost", "--version"}, "app version"},
		{images.Agnhost, []string{"/agnhost-2", "entrypoint-tester", "a", "b"}, "[/agnhost-2 entrypoint-tester a b]"},
		{images.Agnhost, []string{"cat", "/etc/os-release"}, "Alpine Linux"},
		{images.Agnhost, []string{"id", "user-defined-in-image"}, "50000(group-defined-in-image)"},
		{images.Agnhost, sh("dig -v 2>&1; getent hosts localhost; curl --version | head -1; nc -h 2>&1 | head -1; ip -V; iperf -v; nsenter --version; echo all"), "nsenter from util-linux"},
		{images.Agnhost, sh("dig -v 2>&1"), "DiG 9"},
		{images.Agnhost, sh("nc -h 2>&1"), "OpenBSD netcat"},
		{images.Agnhost, sh("curl --version"), "curl 7"},
		{images.Agnhost, sh("cat /var/registry/pause/manifests/testing; find /var/registry -name data | wc -l"), "sha256:"},
		{images.Agnhost, []string{"/coredns", "-version"}, "CoreDNS-1."},
		{e2e + "agnhost:2.55", sh("ls -d /uploads /localhost.crt /localhost.key"), "/localhost.key"},
		{e2e + "nonroot:1.5", []string{"id", "-u"}, "1234"},
		{e2e + "nonewprivs:1.4", []string{"nnp"}, "Effective uid: 0"},
		{e2e + "kitten:1.8", sh("cat /data.json; ls -l /kitten.jpg"), "kitten.jpg"},
		{e2e + "nautilus:1.8", sh("cat /data.json"), "nautilus.jpg"},
		{e2e + "glibc-dns-testing:2.0.0", sh("dig -v 2>&1; hostname"), "DiG 9"},
		{e2e + "glibc-dns-testing:2.0.0", sh("getent hosts localhost"), "localhost"},
		{e2e + "resource-consumer:1.14", sh("stress --version; /consume-cpu/consume-cpu --help 2>&1; /consumer --help 2>&1"), "millicores"},
		{e2e + "regression-issue-74839:1.4", sh("ls -l /regression-issue-74839"), "rwx"},
		{e2e + "sample-apiserver:1.29.2", []string{"/sample-apiserver", "--help"}, "etcd-servers"},
		{e2e + "sample-device-plugin:1.7", sh("ls -l /sampledeviceplugin"), "rwx"},
		{e2e + "ipc-utils:1.4", sh("ipcmk -M 4096 && ipcs -m"), "4096"},
		{e2e + "perl:5.26", []string{"perl", "-Mbignum=bpi", "-wle", "print bpi(20)"}, "3.1415926535897932385"},
		{"registry.k8s.io/build-image/distroless-iptables:v0.9.6", sh("iptables -V; nft -v; conntrack -V; ipset -v"), "iptables v1"},
		{images.Nginx, sh("nginx -t 2>&1; cat /usr/share/nginx/html/index.html"), "Welcome to nginx!"},
		{images.Nginx, sh("nginx; sleep 1; wget -qO- http://127.0.0.1/"), "nginx:latest"},
		{"docker.io/library/nginx:1.29", sh("nginx; sleep 1; wget -qO- http://127.0.0.1/"), "nginx:1.29"},
		{images.Ubuntu, []string{"bash", "-c", "cat /etc/os-release; dpkg -l | wc -l; awk 'BEGIN {print 1}'; ps"}, "Debian"},
		{images.Ubuntu, []string{"bash", "-c", "apt-get update 2>&1 && apt-get install -y hello jq 2>&1 && hello && echo '{\"a\": 7}' | jq .a"}, "Hello, world!"},
		{images.Ubuntu, []string{"bash", "-c", "apt-get update && apt-get install -y nginx && nginx -v 2>&1; dpkg --audit"}, "nginx version"},
	}
}

func TestImagesDoWhatTheyAreFor(t *testing.T) {
	if client == nil {
		t.Skip(reason)
	}
	for _, c := range checks() {
		t.Run(strings.NewReplacer("/", "_", ":", "_").Replace(c.image), func(t *testing.T) {
			if kept[c.image] == nil {
				t.Skip("not built yet: `make images` builds it")
			}
			out := output(t, c)
			if !strings.Contains(out, c.want) {
				t.Errorf("%q says\n%s\nwithout %q", c.command, out, c.want)
			}
		})
	}
}

// output is what a container writes that runs a check's command to its end.
func output(t *testing.T, c check) string {
	t.Helper()
	ref, err := client.Pull(t.Context(), c.image)
	if err != nil {
		t.Fatal(err)
	}
	pod := client.Sandbox("check")
	pod.LogDirectory = t.TempDir()
	id, err := client.RunSandbox(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := client.Remove(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	}()
	config := criclient.Container("it", ref, c.command...)
	config.Envs = append(config.Envs, &criv1.KeyValue{Key: "data-1", Value: []byte("x")})
	container, err := client.Start(t.Context(), id, pod, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	status, err := client.WaitExited(ctx, container)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(pod.LogDirectory, config.LogPath))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(log)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			lines = append(lines, fields[3])
		}
	}
	t.Logf("exit %d\n%s", status.ExitCode, strings.Join(lines, ""))
	return strings.Join(lines, "")
}

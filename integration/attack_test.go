package integration

import (
	"archive/tar"
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/registry"
)

// The attacks on the real daemon: this file has what they share. What must hold for each published flaw, and where it is tested, is in docs/security.md.

// hostileHost is the registry's name that a test's hostile images are pulled from: each its own, as they run at the same time.
func hostileHost(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("hostile-%x.test", crc32.ChecksumIEEE([]byte(t.Name())))
}

// entry is one member of a hostile layer, written exactly as given.
type entry struct {
	tar.Header
	body string
}

func link(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

func hardLink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}}
}

func directory(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

func regular(name, body string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o666}, body: body}
}

// hostileImage is a layer of one's own on top of busybox, or of nothing when base is nil, with a configuration of one's own.
func hostileImage(t *testing.T, base v1.Image, config func(*v1.Config), entries ...entry) v1.Image {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	if config == nil {
		return image
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := *file.Config.DeepCopy()
	config(&c)
	if image, err = mutate.Config(image, c); err != nil {
		t.Fatal(err)
	}
	return image
}

func busybox() v1.Image { return shared.images[images.Busybox] }

// serve puts images into a registry of the test's own; they are pulled by their hostileName.
func serve(t *testing.T, set map[string]v1.Image) {
	t.Helper()
	full := map[string]v1.Image{}
	for name, image := range set {
		full[hostileName(t, name)] = image
	}
	server, err := registry.Start(t.Context(), "127.0.0.1:0", full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.WriteHosts(shared.certs); err != nil {
		t.Fatal(err)
	}
}

func hostileName(t *testing.T, name string) string {
	t.Helper()
	return hostileHost(t) + "/" + name + ":1"
}

// canary is a directory of the host's that no attack may read or change.
type canary struct{ dir, secret, before string }

const secretWord = "the-host-s-secret"

func newCanary(t *testing.T) canary {
	t.Helper()
	dir, err := os.MkdirTemp(shared.work, "canary-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := canary{dir: dir, secret: filepath.Join(dir, "secret")}
	if err := os.WriteFile(c.secret, []byte(secretWord), 0o600); err != nil {
		t.Fatal(err)
	}
	c.before = c.look(t)
	return c
}

// look is all of the canary, and of the host what images like to aim at.
func (c canary) look(t *testing.T) string {
	t.Helper()
	var seen strings.Builder
	err := filepath.WalkDir(c.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return describe(&seen, path)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/etc", "/dev"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			fmt.Fprintln(&seen, dir, e)
		}
	}
	for _, file := range []string{"/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev/null", "/proc/sys/kernel/core_pattern"} {
		if err := describe(&seen, file); err != nil {
			fmt.Fprintln(&seen, file, "is not here")
		}
	}
	return seen.String()
}

func describe(w io.Writer, path string) error {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s mode %o owner %d:%d device %d links %d", path, st.Mode, st.Uid, st.Gid, st.Rdev, st.Nlink)
	if st.Mode&syscall.S_IFMT == syscall.S_IFREG {
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, " %q", body)
	}
	fmt.Fprintln(w)
	return nil
}

// wantUntouched holds after every attack.
func (c canary) wantUntouched(t *testing.T) {
	t.Helper()
	if after := c.look(t); after != c.before {
		t.Errorf("the host was changed.\nbefore:\n%s\nafter:\n%s", c.before, after)
	}
}

// attempt runs a container to its end and answers what it printed. An error of the runtime is an answer, too: most attacks may fail.
func (p pod) attempt(t *testing.T, client *criclient.Client, config *criv1.ContainerConfig) (string, error) {
	t.Helper()
	id, err := client.Start(t.Context(), p.id, p.config, config)
	if err == nil {
		_, err = client.WaitExited(t.Context(), id)
	}
	if id != "" {
		if _, removeErr := client.RemoveContainer(t.Context(), &criv1.RemoveContainerRequest{ContainerId: id}); removeErr != nil {
			t.Errorf("removing the attacker: %v", removeErr)
		}
	}
	if err != nil {
		if code := status.Code(err); code == codes.Unavailable || code == codes.Internal {
			t.Errorf("the daemon fell over: %v", err)
		}
		return "", err
	}
	log, err := os.ReadFile(filepath.Join(p.logs, config.LogPath))
	if err != nil {
		t.Fatal(err)
	}
	return string(log), nil
}

// wantAlive is the daemon's pulse: the machinery works for others after an attack.
func wantAlive(t *testing.T, client *criclient.Client, p pod, image string) {
	t.Helper()
	out, err := p.attempt(t, client, criclient.Container("pulse", image, "echo", "well"))
	if err != nil || !strings.Contains(out, "well") {
		t.Errorf("the daemon is not well after the attack: %q, %v", out, err)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// hostileWithVolume pulls an image that has a VOLUME at /data.
func hostileWithVolume(t *testing.T, client *criclient.Client) string {
	t.Helper()
	serve(t, map[string]v1.Image{"volume": hostileImage(t, busybox(), func(c *v1.Config) { c.Volumes = map[string]struct{}{"/data": {}} }, directory("data"))})
	image, err := client.Pull(t.Context(), hostileName(t, "volume"))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func runningContainers(t *testing.T, client *criclient.Client) []string {
	t.Helper()
	list, err := client.ListContainers(t.Context(), &criv1.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range list.Containers {
		ids = append(ids, c.Id)
	}
	return ids
}

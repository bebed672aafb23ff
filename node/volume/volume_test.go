package volume

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/shimd/shimd/node/objects"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func testPod() *corev1.Pod {
	pod := &corev1.Pod{}
	pod.UID, pod.Name, pod.Namespace = "uid", "web", "default"
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{}
	return pod
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	probe := t.TempDir()
	if err := unix.Mount("tmpfs", probe, "tmpfs", 0, ""); err != nil {
		t.Skipf("mounting is not possible here: %v", err)
	}
	if err := unix.Unmount(probe, 0); err != nil {
		t.Fatal(err)
	}
}

func TestRecords(t *testing.T) {
	s := open(t)
	if err := s.Save(Record{File: "web.yaml", Pod: testPod()}); err != nil {
		t.Fatal(err)
	}
	for uid, content := range map[string]string{"broken": "{", "other": `{"pod":{"metadata":{"uid":"x"},"spec":{"securityContext":{}}}}`} {
		if err := os.MkdirAll(s.pod(uid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.pod(uid, "pod.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	records, err := s.Load()
	if err == nil || !strings.Contains(err.Error(), "broken") || !strings.Contains(err.Error(), "other") {
		t.Errorf("broken records: %v", err)
	}
	if r := records["uid"]; r.File != "web.yaml" || r.Pod == nil || r.Pod.Name != "web" {
		t.Errorf("record: %+v", r)
	}
	if r, ok := records["broken"]; !ok || r.Pod != nil {
		t.Errorf("a broken record is a pod to remove: %+v", r)
	}
}

func TestEmptyDirs(t *testing.T) {
	needRoot(t)
	s, pod := open(t), testPod()
	size, group, mode := resource.MustParse("1Mi"), int64(1234), int32(0o750)
	pod.Spec.SecurityContext.FSGroup = &group
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Mode: &mode}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}},
	}
	for range 2 { // idempotent
		if err := s.Prepare(t.Context(), pod, objects.Offline{}); err != nil {
			t.Fatal(err)
		}
	}
	var stat unix.Stat_t
	if err := unix.Stat(s.Path(pod, &pod.Spec.Volumes[0]), &stat); err != nil || stat.Gid != 1234 || stat.Mode&0o7777 != 0o2770 {
		t.Errorf("disk: %v gid %d mode %o", err, stat.Gid, stat.Mode)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Path(pod, &pod.Spec.Volumes[1]), &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || int64(fs.Blocks)*fs.Bsize != 1<<20 {
		t.Errorf("memory: %v %+v", err, fs)
	}
	if below, err := mountsBelow(s.pod("uid")); err != nil || len(below) != 1 {
		t.Errorf("mounts: %v %v", below, err)
	}
	for range 2 {
		if err := s.Remove("uid"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.pod("uid")); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		kind corev1.HostPathType
		ok   bool
	}{
		{"/nowhere", corev1.HostPathUnset, true}, {dir, corev1.HostPathDirectory, true}, {file, corev1.HostPathDirectory, false},
		{dir + "/new/deep", corev1.HostPathDirectoryOrCreate, true}, {dir + "/absent", corev1.HostPathDirectory, false},
		{file, corev1.HostPathFile, true}, {dir, corev1.HostPathFile, false}, {dir + "/made", corev1.HostPathFileOrCreate, true},
		{dir + "/no/parent", corev1.HostPathFileOrCreate, false}, {"/dev/null", corev1.HostPathCharDev, true}, {file, corev1.HostPathSocket, false},
		{"/dev/null", corev1.HostPathBlockDev, false},
	} {
		if err := hostPath(&corev1.HostPathVolumeSource{Path: test.path, Type: &test.kind}); (err == nil) != test.ok {
			t.Errorf("%s as %q: %v", test.path, test.kind, err)
		}
	}
}

// CVE-2021-25741, CVE-2017-1002102: links that a pod plants in its volume lead nowhere, and removing the pod removes nothing outside.
func TestCVE_2021_25741_CVE_2017_1002102_SubPathStaysInTheVolume(t *testing.T) {
	needRoot(t)
	s, outside := open(t), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	volume := s.pod("uid", "volumes", "v")
	if err := os.MkdirAll(filepath.Join(volume, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"absolute": outside, "up": "../../../..", "proc": "/proc/self/root", "inside": "real"} {
		if err := os.Symlink(target, filepath.Join(volume, link)); err != nil {
			t.Fatal(err)
		}
	}
	for sub, ok := range map[string]bool{
		"absolute": false, "absolute/secret": false, "absolute/new": false, "up": false, "up/x": false, "proc": false, "real/../..": false,
		"inside": true, "inside/made/deep": true, "real": true,
	} {
		bound, err := s.subPath("uid", "c", 0, volume, sub)
		if (err == nil) != ok {
			t.Errorf("%s: %q, %v", sub, bound, err)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, "new")); err == nil {
		t.Error("something was made outside")
	}
	if _, err := os.Stat(filepath.Join(volume, "real/made/deep")); err != nil {
		t.Error(err)
	}
	// A hostPath with a subPath is a mount of the node's own directory: removing the pod must not empty it.
	if _, err := s.subPath("uid", "c", 1, outside, "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.subPath("uid", "c", 2, filepath.Dir(outside), filepath.Base(outside)); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("uid"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
		t.Errorf("outside: %q, %v", text, err)
	}
}

// A pod exchanges a directory of its volume for a link to the node's, again and again, while a container with a subPath is started.
func TestCVE_2021_25741_SubPathUnderRace(t *testing.T) {
	needRoot(t)
	s, outside := open(t), t.TempDir()
	volume := s.pod("uid", "volumes", "v")
	if err := os.MkdirAll(filepath.Join(volume, "real/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(volume, "link")); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(volume, "real"), unix.AT_FDCWD, filepath.Join(volume, "link"), unix.RENAME_EXCHANGE); err != nil {
				stopped <- err
				return
			}
		}
	}()
	bound := 0
	for range 300 {
		target, err := s.subPath("uid", "c", 0, volume, "real/sub")
		if err != nil {
			continue // it was the link
		}
		bound++
		if leak := filepath.Join(target, "leak"); os.WriteFile(leak, nil, 0o600) != nil {
			t.Errorf("%s cannot be written", leak)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v %v, of %d mounts", entries, err, bound)
	}
	if err := s.Remove("uid"); err != nil {
		t.Fatal(err)
	}
}

func TestCVE_2024_10220_CVE_2025_1767_NoGitRepo(t *testing.T) {
	s, pod := open(t), testPod()
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{GitRepo: &corev1.GitRepoVolumeSource{Repository: "/etc"}}}}
	if err := s.Prepare(t.Context(), pod, objects.Offline{}); err == nil || !strings.Contains(err.Error(), "gitRepo") {
		t.Error(err)
	}
}

func TestRemoveTakesNoPaths(t *testing.T) {
	s := open(t)
	for _, uid := range []string{"", ".", "..", "../x", "a/b"} {
		if s.Remove(uid) == nil {
			t.Errorf("removed %q", uid)
		}
	}
}

func TestMountsAndMessages(t *testing.T) {
	s, pod := open(t), testPod()
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"a", "b"}}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c := &corev1.Container{Name: "main", TerminationMessagePath: "/dev/termination-log", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "data", ReadOnly: true}}}
	if err := s.Prepare(t.Context(), pod, objects.Offline{}); err != nil {
		t.Fatal(err)
	}
	mounts, err := s.Mounts(pod, c, Run{Attempt: 3, Hosts: Hosts{IPs: []string{"10.0.0.2", "fd00::2"}, Hostname: "web"}})
	if err != nil || len(mounts) != 3 {
		t.Fatalf("%v %v", mounts, err)
	}
	if mounts[0].ContainerPath != "/data" || !mounts[0].Readonly || mounts[1].ContainerPath != "/etc/hosts" || mounts[2].ContainerPath != "/dev/termination-log" {
		t.Errorf("mounts: %v", mounts)
	}
	hosts, err := os.ReadFile(mounts[1].HostPath)
	if err != nil || !strings.Contains(string(hosts), "10.0.0.2\tweb\nfd00::2\tweb\n") || !strings.Contains(string(hosts), "192.0.2.9\ta\tb\n") {
		t.Errorf("hosts: %s, %v", hosts, err)
	}
	if err := os.WriteFile(mounts[2].HostPath, []byte(strings.Repeat("x", 2*maxMessage)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.Message("uid", "main", 3); len(got) != maxMessage {
		t.Errorf("a message of %d bytes", len(got))
	}
	log := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(log, []byte("2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := LogTail(log); got != "one\ntwo\n" {
		t.Errorf("log: %q", got)
	}
}

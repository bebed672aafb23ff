package volume

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bind gives a cluster a claim of a volume, both of one name.
func (c *cluster) bind(name string, source corev1.PersistentVolumeSource, change func(*corev1.PersistentVolume)) {
	if c.claims == nil {
		c.claims, c.volumes = map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}
	}
	pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: source}}
	pv.Name = name
	if change != nil {
		change(pv)
	}
	pvc := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: name}}
	pvc.Name = name
	c.claims[name], c.volumes[name] = pvc, pv
}

func claimPod(uid, claim string) *corev1.Pod {
	pod := testPod()
	pod.UID, pod.Name = types.UID(uid), uid
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	return pod
}

func TestClaims(t *testing.T) {
	dir := t.TempDir()
	local := func(path string) corev1.PersistentVolumeSource {
		return corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}}
	}
	onNode := func(name string) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) {
			pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{name}}},
			}}}}
		}
	}
	block := corev1.PersistentVolumeBlock
	source := liveCluster()
	source.node.Labels = map[string]string{corev1.LabelHostname: "here"}
	source.bind("host", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}, nil)
	source.bind("local", local(dir), onNode("here"))
	source.bind("elsewhere", local(dir), onNode("there"))
	source.bind("absent", local(dir+"/absent"), nil)
	source.bind("up", local(dir+"/../.."), nil)
	source.bind("nfs", corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}, nil)
	source.bind("no-device", local(dir), func(pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = &block })
	source.bind("going", local(dir), nil)
	source.claims["going"].DeletionTimestamp = &metav1.Time{}
	for name, say := range map[string]string{
		"host": "", "local": "", "elsewhere": `MountVolume.NodeAffinity check failed for volume "data"`, "absent": "no such file", "up": "without ..",
		"nfs": "MountVolume.FindPluginBySpec failed", "no-device": "not a block device", "going": "being deleted", "nobody's": "not found",
	} {
		s, pod := open(t), claimPod("p", name)
		err := s.Prepare(t.Context(), pod, source)
		if (err == nil) != (say == "") || err != nil && !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", name, err)
		}
		c := &corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}
		mounts, err := s.Mounts(pod, c, Run{})
		if (err == nil) != (say == "") || err == nil && (mounts[0].HostPath != dir || mounts[0].SelinuxRelabel != (name == "local")) {
			t.Errorf("%s: %v %v", name, mounts, err)
		}
	}
}

func TestClaimsAreKnownWithoutTheAPIServer(t *testing.T) {
	s, source, pod := open(t), liveCluster(), claimPod("p", "local")
	source.bind("local", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: t.TempDir()}}, nil)
	pod.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	if err := s.Prepare(t.Context(), pod, source); err != nil {
		t.Fatal(err)
	}
	source.claims = nil
	if err := s.Prepare(t.Context(), pod, source); err != nil {
		t.Fatal(err)
	}
	mounts, err := s.Mounts(pod, &corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}, Run{})
	if err != nil || !mounts[0].Readonly {
		t.Errorf("%v %v", mounts, err)
	}
}

func TestGenericEphemeralVolumes(t *testing.T) {
	source := liveCluster()
	source.bind("p-data", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: t.TempDir()}}, nil)
	s, pod := open(t), claimPod("p", "")
	pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
	if err := s.Prepare(t.Context(), pod, source); err == nil || !strings.Contains(err.Error(), "not made for the pod") {
		t.Errorf("another's claim: %v", err)
	}
	source.claims["p-data"].OwnerReferences = []metav1.OwnerReference{{UID: pod.UID, Controller: pointer(true)}}
	if err := s.Prepare(t.Context(), pod, source); err != nil {
		t.Error(err)
	}
}

func TestOnePodAtATime(t *testing.T) {
	source := liveCluster()
	source.bind("single", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: t.TempDir()}}, func(pv *corev1.PersistentVolume) {
		pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	})
	s, first, second := open(t), claimPod("a", "single"), claimPod("bb", "single")
	if err := s.Prepare(t.Context(), first, source); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), second, source); err == nil || !strings.Contains(err.Error(), "already in use by another pod") {
		t.Error(err)
	}
	if err := s.Release(string(first.UID)); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), second, source); err != nil {
		t.Error(err)
	}
}

func TestBlockDevices(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	s, source, pod := open(t), liveCluster(), claimPod("p", "disk")
	file := s.pod(string(pod.UID), "claims", "data.json") // a machine for tests has no device to spare
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(`{"volume":"disk","path":"/dev/vdx","block":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	source.bind("disk", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/dev/vdx"}}, func(pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = &block })
	devices, err := s.Devices(pod, &corev1.Container{VolumeDevices: []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/data"}}})
	if err != nil || len(devices) != 1 || devices[0].HostPath != "/dev/vdx" || devices[0].ContainerPath != "/dev/data" || devices[0].Permissions != "mrw" {
		t.Errorf("%v %v", devices, err)
	}
	if _, err := s.Mounts(pod, &corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}, Run{}); err == nil {
		t.Error("a block device was mounted")
	}
}

// The first pod gives a volume to its group; what it cannot follow, links, it does not.
func TestFSGroup(t *testing.T) {
	needRoot(t)
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	for _, file := range []string{outside, filepath.Join(dir, "file"), filepath.Join(dir, "deep/er/file")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	source := liveCluster()
	source.bind("local", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}}, nil)
	s, first, second := open(t), claimPod("a", "local"), claimPod("bb", "local")
	first.Spec.SecurityContext.FSGroup, second.Spec.SecurityContext.FSGroup = pointer(int64(1234)), pointer(int64(4321))
	for _, pod := range []*corev1.Pod{first, second} {
		if err := s.Prepare(t.Context(), pod, source); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct{ mode, gid uint32 }{
		dir: {0o2775, 1234}, dir + "/file": {0o660, 1234}, dir + "/deep/er": {0o2770, 1234}, dir + "/deep/er/file": {0o660, 1234}, outside: {0o600, 0},
	} {
		var stat unix.Stat_t
		if err := unix.Stat(name, &stat); err != nil || stat.Mode&0o7777 != want.mode || stat.Gid != want.gid {
			t.Errorf("%s: %v, mode %o of group %d", name, err, stat.Mode&0o7777, stat.Gid)
		}
	}
	// OnRootMismatch looks at the volume's own directory alone.
	policy := corev1.FSGroupChangeOnRootMismatch
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "new"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := giveAll(dir, pointer(int64(1234)), &policy); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "new"), &stat); err != nil || stat.Gid != 0 {
		t.Errorf("%v, group %d", err, stat.Gid)
	}
	if err := giveAll(dir, pointer(int64(1235)), &policy); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(filepath.Join(dir, "new"), &stat); err != nil || stat.Gid != 1235 {
		t.Errorf("%v, group %d", err, stat.Gid)
	}
}

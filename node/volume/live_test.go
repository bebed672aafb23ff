package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shimd/shimd/node/objects"
)

// cluster is a Source that a test fills.
type cluster struct {
	objects.Offline
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	node       *corev1.Node
	claims     map[string]*corev1.PersistentVolumeClaim
	volumes    map[string]*corev1.PersistentVolume
	requests   []*authenticationv1.TokenRequest
	life       time.Duration // of tokens
	noTokens   error
}

func (c *cluster) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if found := c.configMaps[name]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("configmap %q not found: %w", name, errdefs.ErrNotFound)
}

func (c *cluster) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if found := c.secrets[name]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("secret %q not found: %w", name, errdefs.ErrNotFound)
}

func (c *cluster) Token(_ context.Context, _, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	if c.noTokens != nil {
		return nil, c.noTokens
	}
	c.requests = append(c.requests, request)
	answer := request.DeepCopy()
	answer.Status.Token = fmt.Sprintf("%s-%s-%d", account, strings.Join(request.Spec.Audiences, "+"), len(c.requests))
	seconds := int64(c.life / time.Second)
	answer.Spec.ExpirationSeconds = &seconds
	answer.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(c.life))
	return answer, nil
}

func (c *cluster) Claim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	claim := c.claims[name]
	if claim == nil {
		return nil, nil, fmt.Errorf("claim %q not found: %w", name, errdefs.ErrNotFound)
	}
	return claim, c.volumes[claim.Spec.VolumeName], nil
}

func (c *cluster) Node() (*corev1.Node, error) {
	if c.node == nil {
		return nil, fmt.Errorf("the node is not known: %w", errdefs.ErrUnavailable)
	}
	return c.node, nil
}

func pointer[T any](v T) *T { return &v }

// livePod has one volume of each kind whose content comes from elsewhere.
func livePod() *corev1.Pod {
	pod := testPod()
	pod.Labels, pod.Annotations = map[string]string{"b": "2", "a": "1"}, map[string]string{"note": "a \"word\"\n"}
	pod.Spec.ServiceAccountName = "robot"
	pod.Spec.Containers = []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
		Limits: corev1.ResourceList{"cpu": resource.MustParse("1250m")}, Requests: corev1.ResourceList{"memory": resource.MustParse("32Mi")},
	}}}
	downward := []corev1.DownwardAPIVolumeFile{
		{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
		{Path: "one", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['note']"}, Mode: pointer(int32(0o400))},
		{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.cpu"}},
		{Path: "memory", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "requests.memory", Divisor: resource.MustParse("1Mi")}},
		{Path: "node/memory", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.memory"}},
	}
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("settings"), DefaultMode: pointer(int32(0o440))}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "keys", Items: []corev1.KeyToPath{{Key: "tls.key", Path: "tls/key", Mode: pointer(int32(0o400))}}}}},
		{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: downward}}},
		{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "vault", ExpirationSeconds: pointer(int64(3600))}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("settings"), Items: []corev1.KeyToPath{{Key: "color", Path: "paint/color"}}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: local("absent"), Optional: pointer(true)}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: downward[:1]}},
		}}}},
	}
	return pod
}

func liveCluster() *cluster {
	return &cluster{
		configMaps: map[string]*corev1.ConfigMap{"settings": {Data: map[string]string{"color": "red"}, BinaryData: map[string][]byte{"raw": {0, 1}}}},
		secrets:    map[string]*corev1.Secret{"keys": {Data: map[string][]byte{"tls.key": []byte("private"), "other": nil}}},
		node:       &corev1.Node{Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"memory": resource.MustParse("1Gi")}}},
		life:       time.Hour,
	}
}

func check(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := visible(t, dir)
	for name, content := range want {
		if got[name] != content {
			t.Errorf("%s/%s: %q, want %q", filepath.Base(dir), name, got[name], content)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %v, want %v", filepath.Base(dir), got, want)
	}
}

func TestLiveVolumes(t *testing.T) {
	needRoot(t)
	s, pod, source := open(t), livePod(), liveCluster()
	t.Cleanup(func() { _ = s.Remove("uid") }) // mounts, when the test ended early
	for range 2 {
		if err := s.Prepare(t.Context(), pod, source); err != nil {
			t.Fatal(err)
		}
	}
	if len(source.requests) != 1 {
		t.Errorf("asked for %d tokens", len(source.requests))
	}
	if spec := source.requests[0].Spec; spec.BoundObjectRef.UID != "uid" || spec.Audiences[0] != "vault" || *spec.ExpirationSeconds != 3600 {
		t.Errorf("asked for token %+v", spec)
	}
	dir := func(i int) string { return s.Path(pod, &pod.Spec.Volumes[i]) }
	check(t, dir(0), map[string]string{"color": "red", "raw": "\x00\x01"})
	check(t, dir(1), map[string]string{"tls/key": "private"})
	check(t, dir(2), map[string]string{"labels": "a=\"1\"\nb=\"2\"", "one": "a \"word\"\n", "cpu": "2", "memory": "32", "node/memory": "1073741824"})
	check(t, dir(3), map[string]string{"token": "robot-vault-1", "paint/color": "red", "labels": "a=\"1\"\nb=\"2\""})
	for i, memory := range []bool{false, true, true, true} {
		var stat unix.Statfs_t
		if err := unix.Statfs(dir(i), &stat); err != nil || (stat.Type == unix.TMPFS_MAGIC) != memory {
			t.Errorf("%s: %v, file system %x", dir(i), err, stat.Type)
		}
	}

	// What changes is seen; what cannot be had stays.
	source.configMaps["settings"] = &corev1.ConfigMap{Data: map[string]string{"size": "big", "color": "blue"}}
	pod = pod.DeepCopy()
	pod.Labels = map[string]string{"c": "3"}
	delete(source.secrets, "keys")
	next, err := s.Refresh(t.Context(), pod, source)
	if failures := Failures(err); len(failures) != 1 || !errdefs.IsNotFound(err) || failures[0].Error() != `MountVolume.SetUp failed for volume "secret" : secret "keys" not found: not found` {
		t.Errorf("%v", err)
	}
	if until := time.Until(next); until < 47*time.Minute || until > 48*time.Minute {
		t.Errorf("next in %s", until)
	}
	check(t, dir(0), map[string]string{"color": "blue", "size": "big"})
	check(t, dir(1), map[string]string{"tls/key": "private"})
	check(t, dir(3), map[string]string{"token": "robot-vault-1", "paint/color": "blue", "labels": `c="3"`})

	c := &corev1.Container{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/c"}, {Name: "config", MountPath: "/color", SubPathExpr: "$(KEY)"}, {Name: "all", MountPath: "/all"}}}
	mounts, err := s.Mounts(pod, c, Run{Expand: func(string) (string, error) { return "color", nil }})
	if err != nil {
		t.Fatal(err)
	}
	for _, mount := range mounts[:3] {
		if !mount.Readonly || !mount.SelinuxRelabel {
			t.Errorf("%+v", mount)
		}
	}
	if text, err := os.ReadFile(mounts[1].HostPath); err != nil || string(text) != "blue" {
		t.Errorf("subPath: %q %v", text, err)
	}
	if err := s.Remove("uid"); err != nil {
		t.Fatal(err)
	}
	if next, err := s.Refresh(t.Context(), pod, source); err != nil || !next.IsZero() {
		t.Errorf("a removed pod was refreshed: %v %v", next, err)
	}
	if _, err := os.Stat(s.pod("uid")); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	s, source := open(t), liveCluster()
	for name, test := range map[string]struct {
		volume corev1.VolumeSource
		say    string
	}{
		"no ConfigMap": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}, `MountVolume.SetUp failed for volume "v" : configmap "x" not found`},
		"no key": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Items: []corev1.KeyToPath{{Key: "k", Path: "p"}}}},
			"configmap references non-existent config key: k"},
		"no secret key": {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "keys", Items: []corev1.KeyToPath{{Key: "k", Path: "p"}}}}, "references non-existent secret key: k"},
		"bundle":        {corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}}}}, "clusterTrustBundle is not supported"},
		"nfs":           {corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}, `MountVolume.FindPluginBySpec failed for volume "v" : volumes of kind nfs`},
		"bad path": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Items: []corev1.KeyToPath{{Key: "color", Path: "../p"}}}},
			"leads upwards"},
	} {
		pod := testPod()
		pod.UID = "uid"
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: test.volume}}
		if err := s.Prepare(t.Context(), pod, source); err == nil || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOptionalSourcesMayBeMissing(t *testing.T) {
	s, source, pod := open(t), liveCluster(), testPod()
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "a", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "later"}, Optional: pointer(true)}}},
		{Name: "b", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Optional: pointer(true), Items: []corev1.KeyToPath{{Key: "none", Path: "x"}, {Key: "color", Path: "y"}},
		}}},
	}
	if err := s.Prepare(t.Context(), pod, source); err != nil {
		t.Fatal(err)
	}
	check(t, s.Path(pod, &pod.Spec.Volumes[0]), nil)
	check(t, s.Path(pod, &pod.Spec.Volumes[1]), map[string]string{"y": "red"})
	source.configMaps["later"] = &corev1.ConfigMap{Data: map[string]string{"k": "v"}}
	if _, err := s.Refresh(t.Context(), pod, source); err != nil {
		t.Fatal(err)
	}
	check(t, s.Path(pod, &pod.Spec.Volumes[0]), map[string]string{"k": "v"})
}

func TestTokensAreExchangedInTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for life, want := range map[time.Duration]time.Duration{
		time.Hour: 48 * time.Minute, 10 * time.Minute: 8 * time.Minute, 24 * time.Hour: 24 * time.Hour * 4 / 5, 365 * 24 * time.Hour: 24 * time.Hour,
	} {
		if got := due(now.Add(life), life, 0).Sub(now); got != want {
			t.Errorf("a token of %s is exchanged after %s", life, got)
		}
	}
	source, pod := liveCluster(), testPod()
	var kept tokens
	p := &corev1.ServiceAccountTokenProjection{ExpirationSeconds: pointer(int64(3600))}
	get := func(at time.Time) (string, error) { return kept.get(t.Context(), source, pod, p, at) }
	start := time.Now()
	first, err := get(start)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := get(start.Add(40 * time.Minute)); err != nil || again != first {
		t.Errorf("%q %v", again, err)
	}
	source.noTokens = fmt.Errorf("away: %w", errdefs.ErrUnavailable)
	if again, err := get(start.Add(50 * time.Minute)); err != nil || again != first {
		t.Errorf("a token that lives is given up: %q %v", again, err)
	}
	if _, err := get(start.Add(2 * time.Hour)); !errdefs.IsUnavailable(err) {
		t.Errorf("a token that has ended is given out: %v", err)
	}
	source.noTokens = nil
	if again, err := get(start.Add(2 * time.Hour)); err != nil || again == first {
		t.Errorf("%q %v", again, err)
	}
}

func TestTokenFilesAreTheirUsers(t *testing.T) {
	needRoot(t)
	for name, test := range map[string]struct {
		users    []*int64
		group    *int64
		mode     uint32
		uid, gid uint32
	}{
		"nobody said":   {[]*int64{nil}, nil, 0o644, 0, 0},
		"one user":      {[]*int64{pointer(int64(7)), pointer(int64(7))}, nil, 0o600, 7, 0},
		"two users":     {[]*int64{pointer(int64(7)), pointer(int64(8))}, nil, 0o644, 0, 0},
		"group":         {[]*int64{nil}, pointer(int64(9)), 0o640, 0, 9},
		"user in group": {[]*int64{pointer(int64(7))}, pointer(int64(9)), 0o640, 7, 9},
	} {
		s, pod := open(t), testPod()
		for i, user := range test.users {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: fmt.Sprint(i), SecurityContext: &corev1.SecurityContext{RunAsUser: user}})
		}
		pod.Spec.SecurityContext.FSGroup = test.group
		pod.Spec.Volumes = []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}},
		}}}}
		if err := s.Prepare(t.Context(), pod, liveCluster()); err != nil {
			t.Fatal(err)
		}
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(s.Path(pod, &pod.Spec.Volumes[0]), "token"), &stat); err != nil || stat.Mode&0o7777 != test.mode || stat.Uid != test.uid || stat.Gid != test.gid {
			t.Errorf("%s: %v, mode %o of %d:%d", name, err, stat.Mode&0o7777, stat.Uid, stat.Gid)
		}
		if err := s.Remove("uid"); err != nil {
			t.Fatal(err)
		}
	}
}

// Conformance: "Wrapper volumes should not conflict".
func TestNestedMountPoints(t *testing.T) {
	s, source, pod := open(t), liveCluster(), testPod()
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}}
	at := func(name, path string) corev1.VolumeMount { return corev1.VolumeMount{Name: name, MountPath: path} }
	pod.Spec.Containers = []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{at("v", "/etc/v/"), at("w", "/etc/v/in/deep"), at("w", "/etc/v/in"), at("w", "/etc/v.w"), at("w", "/etc/v/in-w")}}}
	if err := s.Prepare(t.Context(), pod, source); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s.Path(pod, &pod.Spec.Volumes[0])); got != "..content ..data color in in-w raw" {
		t.Error(got)
	}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{at("v", "/v"), at("w", "/v/..data")}
	if err := s.Prepare(t.Context(), pod, source); err == nil {
		t.Error("a mount point may not be where the content is")
	}
}

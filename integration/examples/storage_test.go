package examples_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStaticVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "volumes")
	s.apply("storage/prepare.yaml", "NODE", worker(1))
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/prepare")
	s.applyGlobal("storage/static.yaml", "NODE", worker(1))
	for i := range 2 {
		s.apply("storage/pod.yaml")
		s.wait("condition=Ready", "pod/writer")
		want := fmt.Sprintf("%d /hostpath/log\n%d /local/log\n", i+1, i+1)
		s.eventually("the lines of this pod and those before", func() error {
			said, err := s.try("logs", "writer")
			if err == nil && said != want {
				err = fmt.Errorf("it counts\n%s", said)
			}
			return err
		})
		if at := s.pod("writer").Spec.NodeName; at != worker(1) {
			t.Errorf("the pod is on %s, its local volume on %s", at, worker(1))
		}
		s.kubectl("delete", "pod", "writer")
	}
	for _, claim := range []string{"hostpath", "local"} {
		if volume := s.field("pvc/"+claim, "{.status.phase} {.spec.volumeName}"); volume != "Bound example-"+claim {
			t.Errorf("the claim %s is %s", claim, volume)
		}
	}
}

func TestStatefulSet(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "stateful")
	s.install("storage/provisioner.yaml")
	s.rollout("daemonset/provisioner", "-n", "example-provisioner")
	s.apply("storage/statefulset.yaml")
	s.rollout("statefulset/db")
	var readySince metav1.Time
	for i := range 3 {
		pod := s.pod(fmt.Sprintf("db-%d", i))
		if pod.CreationTimestamp.Before(&readySince) {
			t.Errorf("%s was made at %v, before the one before it was ready (%v)", pod.Name, pod.CreationTimestamp, readySince)
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady {
				readySince = condition.LastTransitionTime
			}
		}
	}
	s.client("")
	page := func(i int) {
		t.Helper()
		want := fmt.Sprintf("data of db-%d", i)
		s.eventually(want, func() error {
			said, err := s.try("exec", "client", "--", "wget", "-qO-", fmt.Sprintf("http://db-%d.db", i))
			if err == nil && strings.TrimSpace(said) != want {
				err = fmt.Errorf("the page is %q", said)
			}
			return err
		})
	}
	for i := range 3 {
		page(i)
	}
	// What the first pod of that name wrote is there for the second.
	s.kubectl("exec", "db-1", "--", "sh", "-c", "echo more > /data/more")
	before := s.pod("db-1")
	s.kubectl("delete", "pod", "db-1")
	s.rollout("statefulset/db")
	after := s.pod("db-1")
	if after.UID == before.UID {
		t.Error("the pod was not replaced")
	}
	page(1)
	if more := s.kubectl("exec", "db-1", "--", "cat", "/data/more"); more != "more\n" {
		t.Errorf("the file of the deleted pod has %q", more)
	}
	// Volumes go with their claims.
	volumes := strings.Fields(s.field("pvc", "{.items[*].spec.volumeName}"))
	if len(volumes) != 3 {
		t.Errorf("there are volumes %v", volumes)
	}
	s.kubectl("delete", "statefulset", "db")
	s.kubectl("delete", "pvc", "--all")
	for _, volume := range volumes {
		s.wait("delete", "pv/"+volume)
	}
}

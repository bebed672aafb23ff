package examples_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestOperator(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "operator")
	s.applyGlobal("operator/crd.yaml")
	s.wait("condition=Established", "crd/myapps.example.com")
	s.install("operator/operator.yaml")
	s.rollout("deployment/operator", "-n", "myapp-operator")

	// Create.
	s.apply("operator/hello.yaml")
	s.expect("myapp/hello", "{.status.ready}", "2")
	address := s.field("myapp/hello", "{.status.address}")
	s.client("")
	s.eventually("an answer at "+address, func() error {
		page, err := s.try("exec", "client", "--", "wget", "-qO-", "http://"+address)
		if err == nil && !strings.Contains(page, "nginx") {
			err = fmt.Errorf("the page is %q", page)
		}
		return err
	})

	// Change, within the limits of the CRD.
	if why := s.fails("patch", "myapp", "hello", "--type=merge", "-p", `{"spec":{"replicas":11}}`); !strings.Contains(why, "should be less than or equal to 10") {
		t.Errorf("eleven replicas were refused: %s", why)
	}
	s.kubectl("patch", "myapp", "hello", "--type=merge", "-p", `{"spec":{"replicas":3}}`)
	s.expect("myapp/hello", "{.status.ready}", "3")

	// Drift.
	s.kubectl("scale", "deployment/hello", "--replicas=0")
	s.expect("deployment/hello", "{.spec.replicas}", "3")
	s.expect("deployment/hello", "{.status.readyReplicas}", "3")
	s.kubectl("delete", "service", "hello")
	s.wait("create", "service/hello")

	// Delete: what is owned goes with it, and what isn't, before it.
	listed := func() string {
		return s.kubectl("get", "configmap", "myapp-addresses", "-n", "myapp-operator", "-o", "jsonpath={.data}")
	}
	line := s.name + ".hello"
	if all := listed(); !strings.Contains(all, line) {
		t.Errorf("%s is not among the addresses: %s", line, all)
	}
	s.kubectl("delete", "myapp", "hello")
	if all := listed(); strings.Contains(all, line) {
		t.Errorf("%s is still among the addresses: %s", line, all)
	}
	s.wait("delete", "deployment/hello", "service/hello")
	s.wait("delete", "pod", "-l", "example.com/myapp=hello")
}

func TestEtcdOperator(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "etcd")
	s.applyGlobal("etcd-operator/crd.yaml")
	s.wait("condition=Established", "crd/etcdclusters.example.com")
	s.install("etcd-operator/operator.yaml")
	s.rollout("deployment/operator", "-n", "etcd-operator")
	s.apply("etcd-operator/demo.yaml")
	members := s.members()
	s.etcdctl(members[0], "put", "greeting", "hello")

	// A member's process is killed: it is replaced by another, and the data is there.
	killed := members[0]
	s.kubectl("exec", killed, "--", "sh", "-c", "kill 1")
	s.wait("delete", "pod/"+killed)
	members = s.members()
	s.holds(members, "hello")

	// A member's pod is deleted.
	deleted := members[0]
	s.etcdctl(deleted, "put", "greeting", "again")
	s.kubectl("delete", "pod", deleted)
	members = s.members()
	s.holds(members, "again")
	for _, gone := range []string{killed, deleted} {
		if list := s.etcdctl(members[0], "member", "list"); strings.Contains(list, gone) || len(distinct(list)) != 3 {
			t.Errorf("the members are\n%s", list)
		}
	}
	s.kubectl("delete", "etcdcluster", "demo")
	s.wait("delete", "pod", "-l", "example.com/etcdcluster=demo")
}

// members waits for three that are ready, and answers their pods' names.
func (s *space) members() []string {
	s.t.Helper()
	var names []string
	s.eventually("three members", func() error {
		names = nil
		for _, pod := range s.running("example.com/etcdcluster=demo") {
			if isReady(pod) {
				names = append(names, pod.Name)
			}
		}
		said, err := s.try("get", "etcdcluster/demo", "-o", "jsonpath={.status.members} {.status.ready}{.status.message}")
		if err == nil && (len(names) != 3 || said != "3 3") {
			err = fmt.Errorf("pods %v are ready; the EtcdCluster says %q", names, said)
		}
		return err
	})
	return names
}

// etcdctl runs in a member.
func (s *space) etcdctl(member string, args ...string) string {
	s.t.Helper()
	return s.kubectl(append([]string{"exec", member, "--", "etcdctl"}, args...)...)
}

// holds sees that every member has the greeting.
func (s *space) holds(members []string, greeting string) {
	s.t.Helper()
	for _, member := range members {
		if said := strings.TrimSpace(s.etcdctl(member, "get", "greeting", "--print-value-only")); said != greeting {
			s.t.Errorf("%s has %q, not %q", member, said, greeting)
		}
	}
}

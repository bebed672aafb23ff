package examples_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Not parallel: other examples' pods must not be on the node that is stopped.
func TestSelfHealing(t *testing.T) {
	s := newSpace(t, "healing")
	s.apply("self-healing/web.yaml")
	s.rollout("deployment/web")
	s.client(worker(0))
	const page = "wget -qO- http://web || wget -qO- http://web"

	// 1. A process ends: the container is started again.
	first := s.running("app=web")[0]
	s.kubectl("exec", first.Name, "--", "sh", "-c", "kill 1")
	s.restarted(first.Name, 1)
	s.wait("condition=Ready", "pod/"+first.Name)

	// 2. Pods are deleted: others take their place.
	s.kubectl("delete", "pod", first.Name)
	s.healed("", first.Name)
	if said := s.ask(page); !strings.Contains(said, "nginx") {
		t.Errorf("the page is\n%s", said)
	}

	// 3. A node goes: its pods move to the others.
	victim := node(t, worker(workers-1))
	lost := s.on(victim.Name())
	if len(lost) == 0 {
		t.Fatalf("no pod is on %s", victim.Name())
	}
	if err := victim.Stop(); err != nil {
		t.Fatal(err)
	}
	s.expect("node/"+victim.Name(), `{.status.conditions[?(@.type=="Ready")].status}`, "Unknown")
	s.healed(victim.Name(), lost...)
	for range 10 {
		if said := s.ask(page); !strings.Contains(said, "nginx") {
			t.Errorf("without %s the page is\n%s", victim.Name(), said)
		}
	}

	// 4. It comes back: what was on it is gone.
	if err := victim.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wait("condition=Ready", "node/"+victim.Name())
	for _, name := range lost {
		s.wait("delete", "pod/"+name)
	}
}

// on are the names of the Deployment's pods on a node.
func (s *space) on(node string) (names []string) {
	for _, pod := range s.running("app=web") {
		if pod.Spec.NodeName == node {
			names = append(names, pod.Name)
		}
	}
	return names
}

// healed waits until six pods are ready that are not on the node, and are none of the lost ones.
func (s *space) healed(node string, lost ...string) {
	s.t.Helper()
	s.eventually("six pods elsewhere", func() error {
		ready := 0
		for _, pod := range s.running("app=web") {
			if pod.Spec.NodeName == node || !isReady(pod) {
				continue
			}
			for _, name := range lost {
				if pod.Name == name {
					return errors.New(name + " is still there")
				}
			}
			ready++
		}
		if ready != 6 {
			return fmt.Errorf("%d are ready", ready)
		}
		return nil
	})
}

func isReady(pod corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func TestLivenessProbes(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "liveness")
	s.apply("probes/liveness.yaml")
	for _, kind := range []string{"exec", "http", "tcp", "grpc"} {
		s.restarted("liveness-"+kind, 1)
		s.event("liveness-"+kind, "Liveness probe failed")
		s.event("liveness-"+kind, "Container main failed liveness probe, will be restarted")
	}
}

func TestReadinessProbes(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "readiness")
	s.apply("probes/readiness.yaml")
	s.rollout("deployment/ready")
	s.endpoints("ready", 2)
	s.client("")
	pods := s.running("app=ready")
	away, stays := pods[0], pods[1]
	s.kubectl("exec", away.Name, "--", "rm", "/tmp/ready")
	s.endpoints("ready", 1)
	s.event(away.Name, "Readiness probe failed")
	s.eventually("answers of the other pod alone", func() error {
		said, err := s.try("exec", "client", "--", "sh", "-c", "for i in $(seq 20); do wget -qO- http://ready; done")
		if err != nil {
			return err
		}
		answers := distinct(said)
		if len(answers) != 1 || answers[stays.Name] != 20 {
			return fmt.Errorf("they are %v", answers)
		}
		return nil
	})
	s.kubectl("exec", away.Name, "--", "touch", "/tmp/ready")
	s.endpoints("ready", 2)
	for _, pod := range s.pods("app=ready") {
		if restarts := pod.Status.ContainerStatuses[0].RestartCount; restarts != 0 {
			t.Errorf("%s was restarted %d times", pod.Name, restarts)
		}
	}
}

// endpoints waits until a Service has that many ready ones.
func (s *space) endpoints(service string, count int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%d endpoints of %s", count, service), func() error {
		ready, err := s.try("get", "endpointslices", "-l", "kubernetes.io/service-name="+service,
			"-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}")
		if now := len(strings.Fields(ready)); err == nil && now != count {
			err = fmt.Errorf("there are %d", now)
		}
		return err
	})
}

func TestStartupProbes(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "startup")
	s.apply("probes/startup.yaml")
	s.wait("condition=Ready", "pod/slow-start")
	if restarts := s.pod("slow-start").Status.ContainerStatuses[0].RestartCount; restarts != 0 {
		t.Errorf("the pod that starts slowly was restarted %d times", restarts)
	}
	pod := s.restarted("no-start", 1)
	if isReady(pod) {
		t.Error("the pod that never starts is ready")
	}
	s.event("no-start", "Startup probe failed")
}

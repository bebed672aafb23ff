package examples_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

func TestNginx(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "nginx")
	s.apply("nginx/nginx.yaml")
	s.rollout("deployment/my-nginx")
	const welcome = "Welcome to nginx!"
	if page := s.kubectl("run", "once", "-i", "--rm", "--restart=Never", "--image=busybox", "--", "wget", "-qO-", "http://my-nginx"); !strings.Contains(page, welcome) {
		t.Errorf("the page is\n%s", page)
	}
	s.client("")
	if page := s.ask("wget -qO- http://my-nginx." + s.name + ".svc.cluster.local"); !strings.Contains(page, welcome) {
		t.Errorf("by its full name the page is\n%s", page)
	}
	s.ask("for i in $(seq 60); do wget -qO- http://my-nginx >/dev/null || exit 1; done")
	replicas := s.pods("app-name=my-nginx")
	if len(replicas) != 3 {
		t.Errorf("there are %d replicas", len(replicas))
	}
	for _, replica := range replicas {
		if log := s.kubectl("logs", replica.Name); !strings.Contains(log, "Wget") {
			t.Errorf("%s answered none of 60 requests; its log:\n%s", replica.Name, log)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "memory")
	s.apply("memory-limit/nginx.yaml")
	s.apply("memory-limit/hungry.yaml")
	s.rollout("deployment/limited-nginx")
	for _, replica := range s.pods("app-name=limited-nginx") {
		const limit = "512000000"
		if set := memoryLimit(t, replica); set != limit {
			t.Errorf("the memory limit of %s is %s, not %s", replica.Name, set, limit)
		}
	}
	status := s.restarted("hungry", 2).Status.ContainerStatuses[0]
	last := status.LastTerminationState.Terminated
	if last == nil || last.Reason != "OOMKilled" || last.ExitCode != 137 {
		t.Errorf("the container over its limit ended with %+v", last)
	}
	if described := s.kubectl("describe", "pod", "hungry"); !strings.Contains(described, "OOMKilled") {
		t.Errorf("kubectl describe does not say OOMKilled:\n%s", described)
	}
}

func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "update")
	s.apply("rolling-update/web.yaml")
	s.rollout("deployment/web")
	s.wait("condition=Ready", "pod/client")
	s.heard("version 1")
	for _, replicas := range []string{"5", "2"} {
		s.kubectl("scale", "deployment/web", "--replicas="+replicas)
		s.expect("deployment/web", "{.status.readyReplicas}", replicas)
		s.expect("deployment/web", "{.status.replicas}", replicas)
	}
	s.kubectl("set", "env", "deployment/web", "VERSION=2")
	s.updates("web")
	s.heard("version 2")
	s.kubectl("rollout", "undo", "deployment/web")
	s.updates("web")
	s.heard("version 1")
	if history := s.kubectl("rollout", "history", "deployment/web"); !strings.Contains(history, "3 ") {
		t.Errorf("the history has no third revision:\n%s", history)
	}
	// Until those that were told to stop have gone.
	s.eventually("two pods", func() error {
		if pods := s.pods("app=web"); len(pods) != 2 {
			return fmt.Errorf("there are %d", len(pods))
		}
		return nil
	})
	log := s.kubectl("logs", "client")
	if strings.Contains(log, "FAILED") {
		t.Errorf("requests have failed:\n%s", log)
	}
	if asked := strings.Count(log, "asked "); asked < 2 {
		t.Errorf("the client has hardly asked:\n%s", log)
	}
}

// heard waits until the client has got that answer last.
func (s *space) heard(version string) {
	s.t.Helper()
	s.eventually("the client to hear "+version, func() error {
		log, err := s.try("logs", "client")
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(log), "\n"), func(line string) bool { return !strings.HasPrefix(line, "request") })
		if err == nil && (len(lines) == 0 || !strings.HasSuffix(lines[len(lines)-1], version)) {
			err = errors.New("its log is\n" + log)
		}
		return err
	})
}

// updates follows a rolling update to its end: never more pods than allowed, never fewer.
func (s *space) updates(name string) {
	s.t.Helper()
	s.eventually("the update", func() error {
		var d appsv1.Deployment
		if err := json.Unmarshal([]byte(s.kubectl("get", "deployment", name, "-o", "json")), &d); err != nil {
			return err
		}
		wanted := *d.Spec.Replicas
		if d.Status.AvailableReplicas < wanted || d.Status.Replicas > wanted+1 {
			s.t.Fatalf("during the update: %+v", d.Status)
		}
		if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != wanted || d.Status.Replicas != wanted {
			return fmt.Errorf("the status is %+v", d.Status)
		}
		return nil
	})
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "configuration")
	s.apply("configuration/app.yaml")
	s.rollout("deployment/app")
	const environment, files = "echo $COLOUR $PASSWORD $CREDENTIALS_user", "cat /etc/settings/app.conf /etc/credentials/password"
	sees := func(command, wanted string) func() error {
		return func() error {
			for _, pod := range s.running("app=app") {
				if said, err := s.try("exec", pod.Name, "--", "sh", "-c", command); err != nil || strings.TrimSpace(said) != wanted {
					return fmt.Errorf("%s in %s: %q (%w)", command, pod.Name, said, errors.Join(err))
				}
			}
			return nil
		}
	}
	s.eventually("the first values", sees(environment, "blue first alice"))
	s.eventually("the first files", sees(files, "colour = blue\nfirst"))
	s.kubectl("patch", "configmap", "settings", "--type=merge", "-p", `{"data":{"colour":"green","app.conf":"colour = green\n"}}`)
	s.kubectl("patch", "secret", "credentials", "-p", `{"stringData":{"password":"second"}}`)
	s.eventually("the update to reach every instance", sees(files, "colour = green\nsecond"))
	if err := sees(environment, "blue first alice")(); err != nil {
		t.Error("the environment of a running container has changed:", err)
	}
	running := s.running("app=app")
	if len(running) != 3 {
		t.Errorf("%d pods run", len(running))
	}
	for _, pod := range running {
		if restarts := pod.Status.ContainerStatuses[0].RestartCount; restarts != 0 {
			t.Errorf("%s was restarted %d times", pod.Name, restarts)
		}
	}
	s.kubectl("rollout", "restart", "deployment/app")
	s.rollout("deployment/app")
	s.eventually("the update in the environment", sees(environment, "green second alice"))
}

// running are pods that are not on their way out.
func (s *space) running(selector string) []corev1.Pod {
	s.t.Helper()
	return slices.DeleteFunc(s.pods(selector), func(pod corev1.Pod) bool {
		return pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning
	})
}

func TestBatch(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "batch")
	began := time.Now()
	for _, file := range []string{"job", "cronjob", "daemonset"} {
		s.apply("batch/" + file + ".yaml")
	}
	s.wait("condition=Complete", "job/work")
	if done := s.field("job/work", "{.status.succeeded}"); done != "6" {
		t.Errorf("%s pieces of work are done", done)
	}
	log := s.kubectl("logs", "-l", "job-name=work", "--tail=-1")
	for i := range 6 {
		if piece := fmt.Sprintf("piece %d\n", i); !strings.Contains(log, piece) {
			t.Errorf("no %q in the logs:\n%s", piece, log)
		}
	}
	s.wait("condition=Failed", "job/hopeless")
	if why := s.field("job/hopeless", `{.status.conditions[?(@.type=="Failed")].reason}`); why != "BackoffLimitExceeded" {
		t.Errorf("the job without hope failed because of %q", why)
	}
	tries := s.pods("job-name=hopeless")
	if len(tries) != 3 {
		t.Errorf("it was tried %d times", len(tries))
	}
	for _, try := range tries {
		if ended := try.Status.ContainerStatuses[0].State.Terminated; ended == nil || ended.ExitCode != 3 || ended.Reason != "Error" {
			t.Errorf("%s ended with %+v", try.Name, ended)
		}
	}
	s.rollout("daemonset/agent")
	nodes := map[string]bool{}
	for _, pod := range s.pods("app=agent") {
		nodes[pod.Spec.NodeName] = true
		if said := strings.TrimSpace(s.kubectl("logs", pod.Name)); said != "on "+pod.Spec.NodeName {
			t.Errorf("%s said %q on %s", pod.Name, said, pod.Spec.NodeName)
		}
	}
	if len(nodes) != workers {
		t.Errorf("the DaemonSet's pods are on %v", nodes)
	}
	s.kubectl("create", "job", "now", "--from=cronjob/clock")
	s.wait("condition=Complete", "job/now")
	s.eventually("the CronJob's minute", func() error {
		scheduled, err := s.try("get", "cronjob/clock", "-o", "jsonpath={.status.lastSuccessfulTime}")
		if err == nil && scheduled == "" {
			err = fmt.Errorf("no success since %v", began)
		}
		return err
	})
}

package examples_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

// metricsOnce starts metrics-server once for all examples that want it; it stays until the cluster ends.
var metricsOnce sync.Once

// metricsServer answers when `kubectl top` does.
func metricsServer(t *testing.T, s *space) {
	t.Helper()
	metricsOnce.Do(func() {
		text := document(t, "autoscaling/metrics-server.yaml")
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := shared.KubectlInput(ctx, strings.NewReader(text), "apply", "-f", "-"); err != nil {
			t.Fatalf("applying metrics-server: %v\n%s", err, out)
		}
	})
	s.rollout("deployment/metrics-server", "-n", "kube-system")
	s.eventually("figures of every node", func() error {
		said, err := s.try("top", "nodes")
		if err != nil {
			return err
		}
		for i := range workers {
			if !strings.Contains(said, worker(i)) || strings.Contains(said, "unknown") {
				return errors.New(said)
			}
		}
		return nil
	})
}

func TestAutoscaling(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "autoscaling")
	s.apply("autoscaling/consumer.yaml")
	s.rollout("deployment/consumer")
	metricsServer(t, s)
	s.eventually("the autoscaler to know the use", func() error {
		use, err := s.try("get", "hpa", "consumer", "-o", "jsonpath={.status.currentMetrics[0].resource.current.averageUtilization}")
		if err == nil && use == "" {
			err = errors.New("it does not")
		}
		return err
	})
	s.kubectl("run", "load", "-i", "--rm", "--restart=Never", "--image=busybox", "--",
		"wget", "-qO-", "--post-data", "millicores=200&durationSec=90", "http://consumer/ConsumeCPU")
	s.expect("deployment/consumer", "{.status.readyReplicas}", "3")
	s.expect("deployment/consumer", "{.status.readyReplicas}", "1")
	s.event("consumer", "New size: 3")
	said := s.kubectl("get", "events", "--field-selector", "involvedObject.name=consumer,reason=SuccessfulRescale")
	if !strings.Contains(said, "New size: 1") {
		t.Errorf("the autoscaler says\n%s", said)
	}
}

package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestChaosTakesTurnsUntilItIsTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var order []int
	kill := func(node int) func(context.Context) error {
		return func(context.Context) error {
			if order = append(order, node); len(order) == 5 {
				cancel()
			}
			return nil
		}
	}
	n, err := Chaos(ctx, time.Nanosecond, []func(context.Context) error{kill(0), kill(1)})
	if err != nil || n < 5 || order[0] != 0 || order[1] != 1 || order[2] != 0 {
		t.Errorf("%d kills in the order %v, %v", n, order, err)
	}
}

func TestChaosEndsWithWhatDoesNotComeBack(t *testing.T) {
	broken := errors.New("did not come back")
	n, err := Chaos(t.Context(), time.Nanosecond, []func(context.Context) error{func(context.Context) error { return broken }})
	if n != 0 || !errors.Is(err, broken) {
		t.Errorf("%d kills, %v", n, err)
	}
}

const (
	podJSON  = `{"metadata":{"name":"a"},"spec":{"nodeName":"node-1"},"status":{"containerStatuses":[{"name":"idle","containerID":"shimd://1","state":{"running":{}}},{"name":"probed","containerID":"shimd://NUMBER","restartCount":RESTARTS,"state":{"running":{}}}]}}`
	listJSON = `{"kind":"List","items":[` + podJSON + `]}`
)

// A kubectl that answers from a file stands in for the real one.
func TestWitnessTellsWhatRestarted(t *testing.T) {
	dir := t.TempDir()
	answer := filepath.Join(dir, "pods.json")
	program := filepath.Join(dir, "kubectl")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncase \"$*\" in *'get pods'*) cat "+answer+";; esac\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	say := func(id, restarts string) {
		t.Helper()
		text := strings.NewReplacer("NUMBER", id, "RESTARTS", restarts).Replace(listJSON)
		if err := os.WriteFile(answer, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := Witness{Kubectl: program, Image: "agnhost", Pods: 1}
	say("2", "0")
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Check(t.Context()); err != nil {
		t.Error(err)
	}
	say("3", "1")
	if err := w.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "a/probed was shimd://2") {
		t.Errorf("a restart was not told: %v", err)
	}
}

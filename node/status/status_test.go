package status

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/plan"
)

func TestOf(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	ready := []plan.Sandbox{{ID: "S", Ready: true, IPs: []string{"10.0.0.2"}, CreatedAt: at(1)}}
	exited := func(attempt uint32, code int32) plan.Container {
		return plan.Container{ID: "old", Name: "a", Attempt: attempt, State: plan.Exited, ExitCode: code, SandboxID: "S", FinishedAt: at(9), Backoff: 10 * time.Second}
	}
	live := plan.Container{ID: "live", Name: "a", Attempt: 1, State: plan.Running, SandboxID: "S"}
	for _, test := range []struct {
		name   string
		policy corev1.RestartPolicy
		in     plan.Input
		want   string // phase/reason container state/reason/last
	}{
		{"new", "Always", plan.Input{}, "Pending/ waiting/ContainerCreating"},
		{"no image", "Always", plan.Input{Seen: plan.Observed{Sandboxes: ready}, Memory: plan.Memory{Retry: map[string]plan.Retry{"a": {Reason: "ImagePullBackOff"}}}}, "Pending/ waiting/ImagePullBackOff"},
		{"runs", "Always", plan.Input{Seen: plan.Observed{Sandboxes: ready, Containers: []plan.Container{exited(0, 3), live}}, Memory: plan.Memory{Health: map[string]plan.Health{"live": {Started: true, Ready: true}}}}, "Running/ running/ last Error 3 ready"},
		{"starting", "Always", plan.Input{Seen: plan.Observed{Sandboxes: ready, Containers: []plan.Container{live}}}, "Running/ running/"},
		{"crashes", "Always", plan.Input{Seen: plan.Observed{Sandboxes: ready, Containers: []plan.Container{exited(1, 1)}}}, "Running/ waiting/CrashLoopBackOff last Error 1"},
		{"succeeded", "Never", plan.Input{Seen: plan.Observed{Containers: []plan.Container{exited(0, 0)}}}, "Succeeded/ terminated/Completed"},
		{"failed", "Never", plan.Input{Seen: plan.Observed{Containers: []plan.Container{exited(0, 2)}}}, "Failed/ terminated/Error"},
		{"goes", "Always", plan.Input{Terminating: at(2), Seen: plan.Observed{Sandboxes: ready, Containers: []plan.Container{live}}}, "Terminating/ running/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.in.Pod = &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: test.policy, Containers: []corev1.Container{{Name: "a"}}}}
			test.in.Now = at(10)
			made := Make(Input{Input: test.in, Runtime: "fake"})
			s := Of(test.in.Pod, &made, Extra{Terminating: !test.in.Terminating.IsZero()})
			c := s.Containers[0]
			got := s.Phase + "/" + s.Reason + " " + c.State + "/" + c.Reason
			if c.Last != nil {
				got += " last " + c.Last.Reason + " " + strconv.Itoa(int(c.Last.ExitCode))
			}
			if s.Ready {
				got += " ready"
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

type fixed struct {
	node Node
	err  error
}

func (f fixed) Status() Node   { return f.node }
func (f fixed) Healthy() error { return f.err }

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s.sock")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	source := fixed{node: Node{Node: "n", Pods: []Pod{{Name: "web"}}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, listener, Handler(source, true)) }()
	if s, err := Get(t.Context(), path); err != nil || len(s.Pods) != 1 || s.Pods[0].Name != "web" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("a second one: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := Get(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is it running") {
		t.Errorf("nobody there: %v", err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	again, err := Listen(path)
	if err != nil {
		t.Fatalf("over a dead one's: %v", err)
	}
	again.Close()
}

// CVE-2020-15257: no abstract socket, which every pod in the node's network could reach.
func TestNoAbstractSocket(t *testing.T) {
	for _, path := range []string{"@shimlet", "\x00shimlet", "relative"} {
		if listener, err := Listen(path); err == nil {
			listener.Close()
			t.Errorf("listens on %q", path)
		}
	}
}

type answer struct {
	http.ResponseWriter
	code int
}

func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
func (a *answer) Header() http.Header         { return http.Header{} }

func TestHandler(t *testing.T) {
	for _, test := range []struct {
		path string
		err  error
		full bool
		want int
	}{{"/healthz", nil, false, 0}, {"/healthz", errors.New("no"), false, 503}, {"/status", nil, false, 404}, {"/status", nil, true, 0}} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x"+test.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		a := &answer{}
		Handler(fixed{err: test.err}, test.full).ServeHTTP(a, request)
		if a.code != test.want {
			t.Errorf("%+v: %d", test, a.code)
		}
	}
}

func TestTable(t *testing.T) {
	node := Node{FolderError: "gone", Files: []File{{"bad.yaml", "broken"}}, Pods: []Pod{{Namespace: "default", Name: "web", Phase: "Running", IPs: []string{"10.0.0.2"}, StartedAt: time.Unix(0, 0), Containers: []Container{
		{Name: "i", Init: true, State: "terminated", Reason: "Completed"},
		{Name: "a", State: "waiting", Reason: "CrashLoopBackOff", Restarts: 3, Last: &Ended{Reason: "Error", ExitCode: 7}},
		{Name: "b", State: "waiting", Reason: "ImagePullBackOff", Message: "two\nlines\x1b[31m"},
	}}}}
	var out strings.Builder
	if err := Table(&out, node, time.Unix(125, 0)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"gone", "Running", "0/2", "2m", "10.0.0.2", "i (init)", "exit code 0, Completed", "CrashLoopBackOff (last run: Error, exit code 7)", "ImagePullBackOff: two lines [31m", "bad.yaml: broken"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // what client-go's connections are made of
	"k8s.io/client-go/rest"
	clientforward "k8s.io/client-go/tools/portforward"
	client "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func ask(t *testing.T, handler http.Handler, method, path string, headers ...string) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func executors(t *testing.T, host, path string, query url.Values) map[string]client.Executor {
	t.Helper()
	config := &rest.Config{Host: host, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	location, err := url.Parse(host + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	bySPDY, err := client.NewSPDYExecutor(config, http.MethodPost, location)
	if err != nil {
		t.Fatal(err)
	}
	byWebSocket, err := client.NewWebSocketExecutor(config, http.MethodGet, location.String())
	if err != nil {
		t.Fatal(err)
	}
	return map[string]client.Executor{"SPDY": bySPDY, "WebSocket": byWebSocket}
}

type oneSize struct{ sizes []client.TerminalSize }

func (o *oneSize) Next() *client.TerminalSize {
	if len(o.sizes) == 0 {
		return nil
	}
	size := o.sizes[0]
	o.sizes = o.sizes[1:]
	return &size
}

func TestExec(t *testing.T) {
	web := start(t, newServer(t, nil))
	query := url.Values{"command": {"echo", "a b"}, "input": {"1"}, "output": {"1"}, "error": {"1"}}
	for _, path := range []string{"/exec/default/web/app", "/exec/default/web/uid-1/app"} {
		for protocol, executor := range executors(t, web.URL, path, query) {
			t.Run(protocol, func(t *testing.T) {
				var out, errs bytes.Buffer
				input := strings.Repeat("input\n", 50000)
				err := executor.StreamWithContext(t.Context(), client.StreamOptions{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs})
				var exit exec.CodeExitError
				if !errors.As(err, &exit) || exit.Code != 3 {
					t.Errorf("ended with %v", err)
				}
				if out.String() != "echo a b\n"+input {
					t.Errorf("got %d bytes", out.Len())
				}
			})
		}
	}
}

func TestExecWithTerminal(t *testing.T) {
	web := start(t, newServer(t, nil))
	for protocol, executor := range executors(t, web.URL, "/exec/default/web/app", url.Values{"command": {"sh"}, "output": {"1"}, "tty": {"1"}}) {
		t.Run(protocol, func(t *testing.T) {
			var out bytes.Buffer
			sizes := &oneSize{[]client.TerminalSize{{Width: 80, Height: 25}}}
			if err := executor.StreamWithContext(t.Context(), client.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: sizes}); err != nil {
				t.Error(err)
			}
			if out.String() != "sh\n80x25\n" {
				t.Errorf("got %q", out.String())
			}
		})
	}
}

func TestAttach(t *testing.T) {
	web := start(t, newServer(t, nil))
	for protocol, executor := range executors(t, web.URL, "/attach/default/web/app", url.Values{"output": {"1"}}) {
		t.Run(protocol, func(t *testing.T) {
			var out bytes.Buffer
			if err := executor.StreamWithContext(t.Context(), client.StreamOptions{Stdout: &out}); err != nil {
				t.Error(err)
			}
			if out.String() != "attached to c1" {
				t.Errorf("got %q", out.String())
			}
		})
	}
}

// connection is what a dialer makes.
type connection interface {
	CreateStream(headers http.Header) (httpstream.Stream, error)
	Close() error
}

func TestPortForward(t *testing.T) {
	web := start(t, newServer(t, nil))
	config := &rest.Config{Host: web.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	location, err := url.Parse(web.URL + "/portForward/default/web")
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := clientforward.NewSPDYOverWebsocketDialer(location, config)
	if err != nil {
		t.Fatal(err)
	}
	direct := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, location)
	for name, dial := range map[string]func(...string) (connection, error){
		"SPDY":      func(p ...string) (connection, error) { c, _, err := direct.Dial(p...); return c, err },
		"WebSocket": func(p ...string) (connection, error) { c, _, err := tunnel.Dial(p...); return c, err },
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := dial("portforward.k8s.io")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }() // the streams have told all
			for port := range 3 {
				headers := http.Header{"Streamtype": {"error"}, "Port": {fmt.Sprint(port + 80)}, "Requestid": {fmt.Sprint(port)}}
				problem, err := conn.CreateStream(headers)
				if err != nil {
					t.Fatal(err)
				}
				if err := problem.Close(); err != nil {
					t.Error(err)
				}
				headers.Set("StreamType", "data")
				data, err := conn.CreateStream(headers)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(data, "hello")
				got, err := io.ReadAll(data)
				if want := fmt.Sprintf("port %d: hello", port+80); err != nil || string(got) != want {
					t.Errorf("got %q, %v", got, err)
				}
				if told, err := io.ReadAll(problem); err != nil || len(told) > 0 {
					t.Errorf("error stream says %q, %v", told, err)
				}
			}
		})
	}
}

func TestStreamsOfNobody(t *testing.T) {
	h := newServer(t, nil).Handler()
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/exec/default/none/app?output=1&command=a":      {404, "pod does not exist"},
		"/exec/default/web/other/app?output=1&command=a": {404, "pod not found"},
		"/exec/default/web/none?output=1&command=a":      {500, `container not found ("none")`},
		"/exec/default/web/app?command=a":                {400, "you must specify at least 1 of stdin, stdout, stderr"},
		"/exec/default/web/app?output=1&command=a":       {400, "Upgrade request required"},
		"/portForward/default/none":                      {404, "pod does not exist"},
		"/run/default/web/app?cmd=echo+a":                {200, "echo+a"},
		"/run/default/web/app?cmd=false":                 {500, "command 'false' exited with 1: no"},
		"/checkpoint/default/web/app":                    {501, "checkpoints of containers are not built into this agent"},
	} {
		if code, text := ask(t, h, http.MethodPost, path); code != want.code || text != want.text {
			t.Errorf("%s: %d %q", path, code, text)
		}
	}
}

func TestContainerLogs(t *testing.T) {
	runtime := newRuntime(t)
	h := newServer(t, func(o *Options) { o.Runtime = runtime }).Handler()
	for id, text := range map[string]string{"c1": "2026-01-02T03:04:05Z stdout F new\n2026-01-02T03:04:06Z stderr F err\n", "c0": "2026-01-02T03:04:04Z stdout F old\n"} {
		path := filepath.Join(t.TempDir(), id)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		runtime.logs[id] = path
	}
	const base = "/containerLogs/default/web/"
	for path, want := range map[string]struct {
		code int
		text string
	}{
		base + "app":                                               {200, "new\nerr\n"},
		base + "app?follow=true":                                   {200, "new\nerr\n"},
		base + "app?previous=true&follow=false":                    {200, "old\n"},
		base + "app?tail=1&timestamps=1":                           {200, "2026-01-02T03:04:06.000000000Z err\n"},
		base + "app?tail=all&stream=Stdout":                        {200, "new\n"},
		base + "app?limitBytes=2":                                  {200, "ne"},
		base + "app?sinceTime=2026-01-02T03:04:06Z":                {200, "err\n"},
		base + "app?tailLines=x":                                   {400, `{"message": "Unable to decode query."}`},
		base + "app?tailLines=-1":                                  {422, `{"message": "Invalid request."}`},
		base + "app?sinceSeconds=1&sinceTime=2026-01-02T03:04:06Z": {422, `{"message": "Invalid request."}`},
		base + "none":                                              {404, `container "none" not found in pod "web"`},
		"/containerLogs/default/none/app":                          {404, `pod "none" does not exist`},
	} {
		if code, text := ask(t, h, http.MethodGet, path); code != want.code || text != want.text {
			t.Errorf("%s: %d %q", path, code, text)
		}
	}
	delete(runtime.logs, "c0")
	if code, text := ask(t, h, http.MethodGet, base+"app?previous=true"); code != 400 || text != "unable to retrieve container logs for shimd://c0" {
		t.Errorf("a container that is gone: %d %q", code, text)
	}
	runtime.logs["c1"] += "-gone"
	if code, text := ask(t, h, http.MethodGet, base+"app"); code != 400 || !strings.Contains(text, "opening log") {
		t.Errorf("a log that is gone: %d %q", code, text)
	}
}

func TestLogOf(t *testing.T) {
	pod := func(state, last corev1.ContainerState) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: "c", ContainerID: "x://now", State: state, LastTerminationState: last}}}}
	}
	ended := func(id string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: id}}
	}
	waiting := func(why string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why}}
	}
	none := corev1.ContainerState{}
	for _, test := range []struct {
		name     string
		pod      *corev1.Pod
		previous bool
		want     string
	}{
		{"no status", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, false, `container "c" in pod "p" is not available`},
		{"ended", pod(ended("x://1"), none), false, "x://1"},
		{"never started", pod(ended(""), ended("x://0")), false, "x://0"},
		{"never ran", pod(ended(""), none), false, `container "c" in pod "p" is terminated`},
		{"backing off", pod(waiting("CrashLoopBackOff"), ended("x://0")), false, "x://0"},
		{"creating", pod(waiting("ContainerCreating"), none), false, `container "c" in pod "p" is waiting to start: ContainerCreating`},
		{"pulling", pod(waiting("ErrImagePull"), none), false, `container "c" in pod "p" is waiting to start: image can't be pulled`},
		{"back-off", pod(waiting("ImagePullBackOff"), none), false, `container "c" in pod "p" is waiting to start: trying and failing to pull image`},
		{"unknown", pod(none, none), false, `container "c" in pod "p" is waiting to start - no logs yet`},
		{"no previous", pod(ended("x://1"), none), true, `previous terminated container "c" in pod "p" not found`},
		{"previous", pod(ended("x://1"), ended("x://0")), true, "x://0"},
	} {
		got, err := logOf(test.pod, "c", test.previous)
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func TestPods(t *testing.T) {
	s := newServer(t, nil)
	for path, handler := range map[string]http.Handler{"/pods": s.Handler(), "/pods/": s.ReadOnly(), "/runningpods/": s.Handler()} {
		code, text := ask(t, handler, http.MethodGet, path)
		var list corev1.PodList
		if err := json.Unmarshal([]byte(text), &list); err != nil || code != 200 {
			t.Fatalf("%s: %d %v", path, code, err)
		}
		if list.Kind != "PodList" || len(list.Items) != 1 || list.Items[0].UID != "uid-1" || list.Items[0].Spec.Containers[0].Image != "nginx" {
			t.Errorf("%s: %s", path, text)
		}
	}
	if code, text := ask(t, s.Handler(), http.MethodGet, "/configz"); code != 200 || !strings.HasPrefix(text, `{"kubeletconfig":{`) {
		t.Errorf("/configz: %d %s", code, text)
	}
	for path, want := range map[string]string{
		"/healthz": "ok", "/healthz/ping": "ok", "/healthz/syncloop": "ok", "/healthz?verbose": "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n",
	} {
		if code, text := ask(t, s.Health(), http.MethodGet, path); code != 200 || text != want {
			t.Errorf("%s: %d %q", path, code, text)
		}
	}
	for _, path := range []string{"/exec/a/b/c", "/logs/", "/containerLogs/a/b/c", "/run/a/b/c"} {
		if code, _ := ask(t, s.ReadOnly(), http.MethodGet, path); code != http.StatusMethodNotAllowed {
			t.Errorf("%s without TLS: %d", path, code)
		}
	}
}

func TestSubresources(t *testing.T) {
	for path, want := range map[string][]string{
		"/stats/summary": {"stats"}, "/metrics": {"metrics"}, "/metrics/cadvisor": {"metrics"}, "/metricsx": {"proxy"}, "/logs/": {"log"}, "/pods": {"pods", "proxy"},
		"/runningpods/": {"pods", "proxy"}, "/healthz/ping": {"healthz", "proxy"}, "/configz": {"configz", "proxy"}, "/exec/a/b/c": {"proxy"},
		"/checkpoint/a/b/c": {"checkpoint"}, "/containerLogs/a/b/c": {"proxy"}, "/debug/pprof/": {"proxy"}, "/": {"proxy"},
	} {
		if diff := cmp.Diff(want, subresources(path)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

// Links inside the directory of logs are followed, others are not.
func TestSystemLogs(t *testing.T) {
	logs, outside := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{filepath.Join(logs, "pods/web/0.log"): "hello", filepath.Join(outside, "secret"): "secret"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"web.log": filepath.Join(logs, "pods/web/0.log"), "near.log": "pods/web/0.log", "out": outside, "secret": filepath.Join(outside, "secret"), "up": ".."} {
		if err := os.Symlink(to, filepath.Join(logs, link)); err != nil {
			t.Fatal(err)
		}
	}
	h := newServer(t, func(o *Options) { o.SystemLog = logs }).Handler()
	for path, want := range map[string]int{
		"/logs/": 200, "/logs/pods/web/0.log": 200, "/logs/web.log": 200, "/logs/near.log": 200, "/logs/none": 404,
		"/logs/secret": 403, "/logs/out/secret": 403, "/logs/up/": 403,
	} {
		code, text := ask(t, h, http.MethodGet, path)
		if code != want || strings.HasSuffix(path, ".log") && text != "hello" || text == "secret" {
			t.Errorf("%s: %d %q", path, code, text)
		}
	}
}

// Without records of allocations there is no profile of them, and the answer says how to get one.
func TestProfilesOfMemory(t *testing.T) {
	rate := runtime.MemProfileRate
	t.Cleanup(func() { runtime.MemProfileRate = rate })
	for wanted, want := range map[int]int{rate: http.StatusOK, 0: http.StatusNotImplemented} {
		runtime.MemProfileRate = wanted
		h := newServer(t, func(*Options) {}).Handler()
		for _, name := range []string{"heap", "allocs"} {
			code, text := ask(t, h, http.MethodGet, "/debug/pprof/"+name)
			if code != want || (want != http.StatusOK && !strings.Contains(text, "GODEBUG=memprofilerate=")) {
				t.Errorf("%s with the rate %d: %d %q", name, wanted, code, text)
			}
		}
	}
}

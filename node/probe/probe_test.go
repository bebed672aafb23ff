package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestCounter(t *testing.T) {
	letters := map[Result]string{Success: "s", Failure: "f", Unknown: "?"}
	for _, test := range []struct {
		success, failure int32
		results, want    string
	}{
		{1, 3, "fff", "??f"}, {1, 3, "ffsff", "??s??"}, {1, 3, "ff?f", "???f"}, {2, 1, "sfs", "?f?"}, {2, 1, "sss", "?ss"}, {1, 1, "sfsf", "sfsf"},
	} {
		c := Counter{SuccessThreshold: test.success, FailureThreshold: test.failure}
		got := ""
		for _, letter := range test.results {
			got += letters[c.Observe(map[rune]Result{'s': Success, 'f': Failure, '?': Unknown}[letter])]
		}
		if got != test.want {
			t.Errorf("%d/%d %s: %s, want %s", test.success, test.failure, test.results, got, test.want)
		}
	}
}

// In a bubble of its own time.
func TestRunTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var checks []string
		p := &corev1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3}
		var verdict Result
		Run(t.Context(), p, begin, func(context.Context) (Result, string) {
			checks = append(checks, time.Since(begin).String())
			return Failure, "x"
		}, func(r Result, _ string) bool {
			verdict = r
			return false
		})
		if got := strings.Join(checks, " "); got != "5s 15s 25s" || verdict != Failure {
			t.Errorf("checked at %s: %v", got, verdict)
		}
	})
}

func check(t *testing.T, p *corev1.Probe, target Target) (Result, string) {
	t.Helper()
	if p.TimeoutSeconds == 0 {
		p.TimeoutSeconds = 5
	}
	if target.Container == nil {
		target.Container = &corev1.Container{}
	}
	return Of(p, target)(t.Context())
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Host, r.UserAgent())
	})
	mux.HandleFunc("/header", func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "example.org" || r.Header.Get("X-A") != "b" || r.URL.RawQuery != "q=1" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.Handle("/here", http.RedirectHandler("/bad", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler("http://192.0.2.1/", http.StatusFound))
	mux.Handle("/loop", http.RedirectHandler("/loop", http.StatusFound))
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer secure.Close()
	for _, test := range []struct {
		path string
		want Result
	}{{"/ok", Success}, {"/header?q=1", Success}, {"/bad", Failure}, {"/here", Failure}, {"/away", Success}, {"/loop", Failure}, {"/absent", Failure}} {
		for scheme, server := range map[corev1.URIScheme]*httptest.Server{"HTTP": plain, "HTTPS": secure} {
			port := server.Listener.Addr().(*net.TCPAddr).Port
			get := &corev1.HTTPGetAction{Path: test.path, Scheme: scheme, Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "host", Value: "example.org"}, {Name: "X-A", Value: "b"}}}
			target := Target{IP: "127.0.0.1", Container: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}}
			if got, message := check(t, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get}}, target); got != test.want {
				t.Errorf("%s %s: %v %s", scheme, test.path, got, message)
			}
		}
	}
}

func TestTCPAndGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	states := health.NewServer()
	states.SetServingStatus("bad", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(server, states)
	go func() { _ = server.Serve(listener) }()
	port := listener.Addr().(*net.TCPAddr).Port
	target := Target{IP: "127.0.0.1"}
	socket := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}}
	if got, message := check(t, socket, target); got != Success {
		t.Errorf("tcp: %v %s", got, message)
	}
	for service, want := range map[string]Result{"": Success, "bad": Failure, "none": Failure} {
		p := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &service}}}
		if got, message := check(t, p, target); got != want {
			t.Errorf("grpc %q: %v %s", service, got, message)
		}
	}
	server.Stop()
	if got, _ := check(t, socket, target); got != Failure {
		t.Errorf("tcp, closed (port %s): %v", strconv.Itoa(port), got)
	}
}

func TestExec(t *testing.T) {
	for _, test := range []struct {
		code int32
		err  error
		want Result
	}{
		{0, nil, Success}, {1, nil, Failure}, {0, context.DeadlineExceeded, Failure},
		{0, fmt.Errorf("running: %w", status.Error(codes.DeadlineExceeded, "too long")), Failure},
		{0, fmt.Errorf("running: %w", status.Error(codes.Unavailable, "restarting")), Unknown},
	} {
		target := Target{Exec: func(context.Context, []string, time.Duration) ([]byte, int32, error) {
			return []byte("out"), test.code, test.err
		}}
		p := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		if got, message := check(t, p, target); got != test.want {
			t.Errorf("%+v: %v %s", test, got, message)
		}
	}
}

package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Handler is the whole API, for those who may.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	s.open(mux)
	config := s.Config
	if !enabled(config.EnableDebuggingHandlers, true) {
		for _, path := range []string{"/run/", "/exec/", "/attach/", "/portForward/", "/containerLogs/", "/runningpods/", "/debug/pprof/", "/logs/"} {
			mux.HandleFunc(path, disabled("Debug endpoints are disabled."))
		}
		return s.guard(mux)
	}
	for _, method := range []string{"GET ", "POST "} {
		mux.HandleFunc(method+"/exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(method+"/exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		mux.HandleFunc(method+"/attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(method+"/attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		mux.HandleFunc(method+"/portForward/{namespace}/{pod}", s.portForward)
		mux.HandleFunc(method+"/portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	mux.HandleFunc("GET /runningpods/{$}", s.runningPods)
	mux.HandleFunc("GET /configz", s.configz)
	mux.HandleFunc("POST /checkpoint/{namespace}/{pod}/{container}", s.checkpoint)
	if enabled(config.EnableSystemLogHandler, true) {
		mux.Handle("GET /logs/", http.StripPrefix("/logs/", http.FileServer(systemLogs(s.system))))
	} else {
		mux.HandleFunc("/logs/", disabled("logs endpoint is disabled."))
	}
	if enabled(config.EnableProfilingHandler, true) {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		if runtime.MemProfileRate == 0 {
			for _, path := range []string{"/debug/pprof/heap", "/debug/pprof/allocs"} {
				mux.HandleFunc("GET "+path, unrecorded)
			}
		}
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	} else {
		mux.HandleFunc("/debug/pprof/", disabled("profiling endpoint is disabled."))
	}
	mux.HandleFunc("/debug/flags/v", disabled("flags endpoint is disabled."))
	return s.guard(mux)
}

// ReadOnly is what may be seen without being asked who one is, where a configuration opens that port.
func (s *Server) ReadOnly() http.Handler {
	mux := http.NewServeMux()
	s.open(mux)
	for _, path := range []string{"/run/", "/exec/", "/attach/", "/portForward/", "/containerLogs/", "/runningpods/", "/debug/pprof/", "/logs/"} {
		mux.HandleFunc(path, disabled("Debug endpoints are disabled."))
	}
	return mux
}

// Health is /healthz alone.
func (s *Server) Health() http.Handler {
	mux := http.NewServeMux()
	s.health(mux)
	return mux
}

// open has the paths that show, and change nothing.
func (s *Server) open(mux *http.ServeMux) {
	s.health(mux)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /pods/{$}", s.pods)
	mux.HandleFunc("GET /stats/summary", s.summary)
	for path, gatherer := range map[string]prometheus.Gatherer{
		"GET /metrics": s.Metrics.Own, "GET /metrics/resource": s.Metrics.Resource, "GET /metrics/cadvisor": s.Metrics.Cadvisor, "GET /metrics/probes": s.Metrics.Probes,
	} {
		if gatherer == nil {
			mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
				plainError(w, http.StatusNotImplemented, "these metrics are not collected by this agent")
			})
			continue
		}
		mux.Handle(path, promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	}
}

func disabled(message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, message, http.StatusMethodNotAllowed) }
}

// health has /healthz as the API server's library answers it, with a path for each check.
func (s *Server) health(mux *http.ServeMux) {
	checks := []struct {
		name  string
		check func() error
	}{
		{"ping", func() error { return nil }},
		{"log", func() error { return nil }},
		{"syncloop", s.Pods.Healthy},
	}
	for _, c := range checks {
		mux.HandleFunc("GET /healthz/"+c.name, func(w http.ResponseWriter, _ *http.Request) {
			if err := c.check(); err != nil {
				http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, "ok")
		})
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		var told strings.Builder
		failed := false
		for _, c := range checks {
			if err := c.check(); err != nil {
				failed = true
				s.log.Warn("a health check fails", "check", c.name, "error", err)
				fmt.Fprintf(&told, "[-]%s failed: reason withheld\n", c.name)
			} else {
				fmt.Fprintf(&told, "[+]%s ok\n", c.name)
			}
		}
		switch _, verbose := r.URL.Query()["verbose"]; {
		case failed:
			http.Error(w, told.String()+"healthz check failed", http.StatusInternalServerError)
		case verbose:
			fmt.Fprint(w, told.String()+"healthz check passed\n")
		default:
			fmt.Fprint(w, "ok")
		}
	})
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	s.podList(w, s.Pods.Pods())
}

func (s *Server) podList(w http.ResponseWriter, pods []*corev1.Pod) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: make([]corev1.Pod, 0, len(pods))}
	for _, pod := range pods {
		shown := *pod
		shown.TypeMeta = metav1.TypeMeta{}
		list.Items = append(list.Items, shown)
	}
	s.answer(w, list)
}

func (s *Server) answer(w http.ResponseWriter, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		plainError(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(data); err != nil {
		s.log.Debug("a client left before its answer", "error", err)
	}
}

// configz shows the configuration as the kubelet does, below the name of its kind.
func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	s.answer(w, map[string]any{"kubeletconfig": s.Config})
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	if s.Statistics == nil {
		plainError(w, http.StatusNotImplemented, "statistics are not collected by this agent")
		return
	}
	only := r.URL.Query().Get("only_cpu_and_memory") == "true"
	summary, err := s.Statistics.Summary(r.Context(), only)
	if err != nil {
		plainError(w, http.StatusInternalServerError, err.Error())
		return
	}
	s.answer(w, summary)
}

// checkpoint is not built: CRIU is not something that a runtime can be asked for whether it has it.
func (s *Server) checkpoint(w http.ResponseWriter, _ *http.Request) {
	plainError(w, http.StatusNotImplemented, "checkpoints of containers are not built into this agent")
}

// unrecorded answers for profiles of memory where none is kept: an empty one would look like an answer.
func unrecorded(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "allocations are not recorded, which saves 2 MB; start shimlet with GODEBUG=memprofilerate=524288 in its environment to profile its memory", http.StatusNotImplemented)
}

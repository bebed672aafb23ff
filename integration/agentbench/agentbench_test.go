package agentbench

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var samples []time.Duration
	for n := 100; n > 0; n-- {
		samples = append(samples, time.Duration(n)*time.Millisecond)
	}
	if p := percentile(samples, 0.5); p != 51 {
		t.Errorf("p50 is %v", p)
	}
	if p := percentile(nil, 0.5); p != 0 {
		t.Errorf("p50 of nothing is %v", p)
	}
}

// An event that came before it was waited for counts, and a watch that ends is an error, not a wait for ever.
func TestWatch(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"type":"ADDED","object":{"metadata":{"name":"a"}}}{"type":"MODIFIED","object":{"metadata":{"name":"a"},"status":{"phase":"Running"}}}`)
	}))
	defer server.Close()
	w, err := (&API{Base: server.URL, Client: server.Client()}).watchPods(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	running := func(e event) bool { return e.pod.Status.Phase == "Running" }
	if at, err := w.await(context.Background(), "a", "to run", running); err != nil || at.IsZero() {
		t.Errorf("%v, %v", at, err)
	}
	if _, err := w.await(context.Background(), "b", "to run", running); err == nil {
		t.Error("the end of the watch is not told")
	}
}

func TestErrorsAreThoseOfTheServer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such thing", http.StatusNotFound)
	}))
	defer server.Close()
	if err := (&API{Base: server.URL, Client: server.Client()}).get(t.Context(), "/x", nil); err == nil {
		t.Error("404 is no error")
	}
}

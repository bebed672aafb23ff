package agentbench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// API is the API server, with the rights of an administrator.
type API struct {
	Base   string // https://host:port
	Client *http.Client
}

func (a *API) do(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, a.Base+path, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.Client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode < 300 {
		return response.Body, nil
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	return nil, errors.Join(fmt.Errorf("%s %s: %s: %s", method, path, response.Status, said), err)
}

func (a *API) call(ctx context.Context, method, path string, body, into any) error {
	answer, err := a.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	data, err := io.ReadAll(answer)
	if err == nil && into != nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return fmt.Errorf("%s %s: reading the answer: %w", method, path, err)
	}
	return nil
}

func (a *API) create(ctx context.Context, path string, object any) error {
	return a.call(ctx, http.MethodPost, path, object, nil)
}

func (a *API) get(ctx context.Context, path string, into any) error {
	return a.call(ctx, http.MethodGet, path, nil, into)
}

func (a *API) remove(ctx context.Context, path string) error {
	return a.call(ctx, http.MethodDelete, path, nil, nil)
}

// createNamespace waits for the service account too: pods are refused before it is there.
func (a *API) createNamespace(ctx context.Context, name string) error {
	if err := a.create(ctx, "/api/v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		return err
	}
	for {
		err := a.get(ctx, "/api/v1/namespaces/"+name+"/serviceaccounts/default", nil)
		if err == nil || !sleep(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// event is one change of a pod, as the watch told it.
type event struct {
	at   time.Time
	kind string // ADDED, MODIFIED, DELETED
	pod  corev1.Pod
}

// watch keeps all events of one namespace's pods.
type watch struct {
	stream io.ReadCloser

	mutex   sync.Mutex
	changed chan struct{} // closed and replaced at each event
	events  map[string][]event
	err     error
}

func (a *API) watchPods(ctx context.Context, namespace string) (*watch, error) {
	stream, err := a.do(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods?watch=1", nil)
	if err != nil {
		return nil, err
	}
	w := &watch{stream: stream, changed: make(chan struct{}), events: map[string][]event{}}
	go w.read()
	return w, nil
}

func (w *watch) close() { w.stream.Close() }

func (w *watch) read() {
	for decoder := json.NewDecoder(w.stream); ; {
		var message struct {
			Type   string     `json:"type"`
			Object corev1.Pod `json:"object"`
		}
		err := decoder.Decode(&message)
		w.mutex.Lock()
		if err != nil {
			w.err = fmt.Errorf("watching pods: %w", err)
		} else {
			w.events[message.Object.Name] = append(w.events[message.Object.Name], event{at: time.Now(), kind: message.Type, pod: message.Object})
		}
		close(w.changed)
		w.changed = make(chan struct{})
		w.mutex.Unlock()
		if err != nil {
			return
		}
	}
}

// await answers when the first event of a pod that fits came.
func (w *watch) await(ctx context.Context, pod, what string, fits func(event) bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		w.mutex.Lock()
		changed, err := w.changed, w.err
		for _, e := range w.events[pod] {
			if fits(e) {
				w.mutex.Unlock()
				return e.at, nil
			}
		}
		w.mutex.Unlock()
		if err != nil {
			return time.Time{}, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("waiting for pod %s %s: %w", pod, what, ctx.Err())
		}
	}
}

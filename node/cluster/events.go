package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shimd/shimd/node/api"
)

const (
	// component is who events come from: the kubelet, to all who look for a node agent's events.
	component = "kubelet"
	// queued is how many events wait at most; more are dropped, as the kubelet does.
	queued = 1000
	// hold is how long an event waits, so that the status that it tells the story of is written first: users and controllers wait for that.
	hold = 200 * time.Millisecond
	// eventTries and eventRetry are how often and when an event is tried again while the API server does not answer; client-go's figures.
	eventTries, eventRetry = 12, 10 * time.Second
	// lastWords is how long those that still wait may take when the agent ends.
	lastWords = 2 * time.Second
)

// recorder writes events, one after the other, equal ones counted together. It does what client-go's does, which keeps the text of each event several times over and links
// OpenAPI into shimlet.
type recorder struct {
	server     api.Server
	source     corev1.EventSource
	log        *slog.Logger
	queue      chan *corev1.Event
	correlator *correlator
	done       chan struct{} // closed when nothing more is written
}

// newRecorder starts a recorder that writes until the context ends, and then what still waits.
func newRecorder(ctx context.Context, server api.Server, node string, log *slog.Logger) *recorder {
	r := &recorder{
		server: server, source: corev1.EventSource{Component: component, Host: node}, log: log,
		queue: make(chan *corev1.Event, queued), correlator: newCorrelator(), done: make(chan struct{}),
	}
	go r.run(ctx)
	return r
}

func (r *recorder) pod(pod *corev1.Pod, field, kind, reason, message string) {
	r.event(corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion, FieldPath: field,
	}, kind, reason, message)
}

func (r *recorder) onNode(kind, reason, message string) {
	r.event(corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: r.source.Host, UID: types.UID(r.source.Host)}, kind, reason, message)
}

func (r *recorder) event(about corev1.ObjectReference, kind, reason, message string) {
	now := time.Now()
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: eventName(about.Name, now), Namespace: namespace},
		InvolvedObject: about, Reason: reason, Message: message, Type: kind, Source: r.source, Count: 1,
		FirstTimestamp: metav1.NewTime(now), LastTimestamp: metav1.NewTime(now), ReportingController: r.source.Component, ReportingInstance: r.source.Host,
	}
	select {
	case r.queue <- e:
	default:
		r.log.Warn("an event is dropped: too many wait for the API server", "object", about.Name, "reason", reason, "message", message)
	}
}

// eventName is unique by the time of the event.
func eventName(object string, at time.Time) string {
	const longest = 253 // of a DNS subdomain
	suffix := fmt.Sprintf(".%x", at.UnixNano())
	if len(object)+len(suffix) > longest {
		object = strings.TrimRight(object[:longest-len(suffix)], "-.")
	}
	return object + suffix
}

func (r *recorder) run(ctx context.Context) {
	defer close(r.done)
	for {
		select {
		case <-ctx.Done():
			r.flush(nil)
			return
		case e := <-r.queue:
			if sleep(ctx, time.Until(e.LastTimestamp.Add(hold))) != nil {
				r.flush(e)
				return
			}
			r.record(ctx, e)
		}
	}
}

// flush writes an event and those behind it, for as long as last words may take.
func (r *recorder) flush(e *corev1.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	for ctx.Err() == nil {
		if e != nil {
			r.record(ctx, e)
		}
		select {
		case e = <-r.queue:
		default:
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// record writes one event, and while the API server cannot be reached tries again. What the API server refuses is given up.
func (r *recorder) record(ctx context.Context, e *corev1.Event) {
	e, key, skip := r.correlator.take(e, time.Now())
	if skip {
		return
	}
	for try := range eventTries {
		err := r.write(ctx, e)
		if err == nil {
			r.correlator.wrote(key, e)
			return
		}
		if refused := apierrors.APIStatus(nil); errors.As(err, &refused) {
			level := slog.LevelWarn
			if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				level = slog.LevelDebug
			}
			r.log.Log(ctx, level, "the API server refuses an event", "event", e.Name, "reason", e.Reason, "error", err)
			return
		}
		r.log.Debug("writing an event; it will be tried again", "event", e.Name, "error", err)
		wait := eventRetry
		if try == 0 { // not all nodes at once when the API server is back
			wait = rand.N(eventRetry)
		}
		if sleep(ctx, wait) != nil {
			return
		}
	}
	r.log.Warn("an event is given up: the API server does not answer", "event", e.Name, "reason", e.Reason, "message", e.Message)
}

// write makes an event, or counts one up that is there.
func (r *recorder) write(ctx context.Context, e *corev1.Event) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	events := r.server.Events(e.Namespace)
	if e.Count > 1 {
		change, err := json.Marshal(map[string]any{"count": e.Count, "lastTimestamp": e.LastTimestamp, "message": e.Message})
		if err != nil {
			return fmt.Errorf("encoding the change of event %s: %w", e.Name, err)
		}
		_, err = events.Patch(ctx, e.Name, types.MergePatchType, change, metav1.PatchOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		e.Name = eventName(e.InvolvedObject.Name, e.LastTimestamp.Time) // the API server forgets events after an hour
	}
	_, err := events.Create(ctx, e, metav1.CreateOptions{})
	return err
}

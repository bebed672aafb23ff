package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/status"
	"github.com/shimd/shimd/node/translate"
	"github.com/shimd/shimd/node/volume"
)

// shared is what all workers use.
type shared struct {
	client *criclient.Client
	store  *volume.Store
	node   translate.Node
	log    *slog.Logger
}

// worker runs one pod, from its first sandbox to its last file. All fields below "owned" belong to its goroutine; actions and probes, which run
// beside it, report by post.
type worker struct {
	*shared
	pod  *corev1.Pod
	file string
	log  *slog.Logger

	wakeUp chan struct{} // of one place: to be woken twice is to be woken
	end    chan struct{} // closed: the pod has to go
	ending sync.Once
	inbox  chan func() // what actions and probes found, to be done by the worker
	told   atomic.Pointer[status.Pod]
	beside sync.WaitGroup

	// owned
	memory      plan.Memory
	seen        plan.Observed
	known       map[string]plan.Container // by ID: the last observation
	probes      map[string]context.CancelFunc
	pulls       map[string]context.CancelFunc // by container name: starts that may still be given up
	terminating time.Time
	recorded    bool
	trouble     string // the last error of observing, to be logged once
	delay       time.Duration
}

func newWorker(s *shared, d desired) *worker {
	log := s.log.With("pod", d.name(), "uid", d.Pod.UID)
	w := &worker{
		shared: s, pod: d.Pod, file: d.File, log: log,
		wakeUp: make(chan struct{}, 1), end: make(chan struct{}), inbox: make(chan func(), 16),
		memory: plan.Memory{Busy: map[string]bool{}, Retry: map[string]plan.Retry{}, Health: map[string]plan.Health{}},
		known:  map[string]plan.Container{}, probes: map[string]context.CancelFunc{}, pulls: map[string]context.CancelFunc{},
	}
	w.publish()
	return w
}

// wake makes the worker look at its pod.
func (w *worker) wake() {
	select {
	case w.wakeUp <- struct{}{}:
	default:
	}
}

// terminate makes the pod go. It may be called many times.
func (w *worker) terminate() { w.ending.Do(func() { close(w.end) }) }

// status is what is known of the pod; safe from any goroutine.
func (w *worker) status() status.Pod { return *w.told.Load() }

// post hands the worker something to do, unless it has ended.
func (w *worker) post(ctx context.Context, f func()) {
	select {
	case w.inbox <- f:
	case <-ctx.Done():
	}
}

// run works until the pod is gone (true) or the context ends (false): then the pod runs on, and the next agent adopts it.
func (w *worker) run(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer w.beside.Wait()
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	end := w.end
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end:
			end = nil
			w.beginToEnd()
		case <-w.wakeUp:
		case f := <-w.inbox:
			f()
		case <-timer.C:
		}
		w.drain()
		gone, next := w.step(ctx)
		if gone {
			return true
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// drain takes what else is there, so that many events are one look.
func (w *worker) drain() {
	for {
		select {
		case f := <-w.inbox:
			f()
		case <-w.wakeUp:
		default:
			return
		}
	}
}

// beginToEnd gives up pulls; what else is under way comes to its end first, so that nothing is left half made.
func (w *worker) beginToEnd() {
	w.log.Info("removing the pod")
	w.terminating = time.Now()
	clear(w.memory.Retry)
	for _, cancel := range w.pulls {
		cancel()
	}
}

// step looks, decides, and starts what is to be done. It answers whether the pod is gone, and when to look again.
func (w *worker) step(ctx context.Context) (gone bool, next time.Time) {
	if err := w.record(); err != nil {
		return false, w.troubled(err)
	}
	seen, err := w.client.Observe(ctx, string(w.pod.UID), w.known)
	if err != nil {
		return false, w.troubled(err)
	}
	w.trouble, w.delay = "", 0
	w.seen = seen
	clear(w.known)
	for _, run := range seen.Containers {
		w.known[run.ID] = run
	}
	w.watch(ctx)
	in := w.input()
	p := plan.Next(in)
	if p.Gone {
		if err := w.cleanUp(); err != nil {
			return false, w.troubled(err)
		}
		w.log.Info("the pod is gone")
		return true, time.Time{}
	}
	for _, action := range p.Actions {
		w.start(ctx, action)
	}
	w.publish()
	return false, p.WakeAt
}

func (w *worker) input() plan.Input {
	return plan.Input{Pod: w.pod, Terminating: w.terminating, Seen: w.seen, Memory: w.memory, Now: time.Now()}
}

// record writes down what is about to run, before anything of it exists.
func (w *worker) record() error {
	if w.recorded || !w.terminating.IsZero() {
		return nil
	}
	if err := w.store.Save(volume.Record{File: w.file, Pod: w.pod}); err != nil {
		return err
	}
	w.recorded = true
	return nil
}

// cleanUp removes what a gone pod leaves on the node.
func (w *worker) cleanUp() error {
	return errors.Join(w.store.Remove(string(w.pod.UID)), os.RemoveAll(translate.LogDirectory(w.node.LogDir, w.pod)))
}

// troubled says when to try again what stopped the worker from working at all. The agent wakes it when the runtime is back.
func (w *worker) troubled(err error) time.Time {
	const longest = 30 * time.Second
	if w.trouble != err.Error() {
		w.trouble = err.Error()
		w.log.Error("looking after the pod", "error", err)
	}
	w.delay = min(max(2*w.delay, time.Second), longest)
	w.publish()
	return time.Now().Add(w.delay)
}

func (w *worker) publish() {
	s := status.Of(w.input(), status.Extra{File: w.file, LogDir: w.node.LogDir, NodeIPs: w.node.IPs, Message: w.message})
	if w.trouble != "" && s.Message == "" {
		s.Reason, s.Message = "Unobserved", w.trouble
	}
	w.told.Store(&s)
}

// message is what an ended run of a container left: what the runtime says, its message file, or its log where the pod asks for that.
func (w *worker) message(run plan.Container) string {
	message := w.store.Message(string(w.pod.UID), run.Name, run.Attempt)
	if message == "" && run.ExitCode != 0 {
		c := containerOf(w.pod, run.Name)
		if c != nil && c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
			message = volume.LogTail(w.logPath(run.Name, run.Attempt))
		}
	}
	if message == "" {
		message = run.Message
	}
	return message
}

// containerOf is the container of a name, or nil.
func containerOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

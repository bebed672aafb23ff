package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/metrics"
	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/status"
	"github.com/shimd/shimd/node/translate"
	"github.com/shimd/shimd/node/volume"
)

// shared is what all workers use.
type shared struct {
	client  *criclient.Client
	store   *volume.Store
	cluster Cluster
	cgroups Cgroups // nil: the runtime's own
	metrics *metrics.Metrics
	fits    func(pod *corev1.Pod) *plan.Verdict // whether the node has room for other resources of one of its pods
	node    translate.Node
	runtime atomic.Pointer[runtimeInfo]
	log     *slog.Logger
}

// runtimeInfo is what the runtime said of itself when the agent connected.
type runtimeInfo struct {
	name              string
	groupsPolicy      bool
	recursiveReadOnly map[string]bool // by handler
	userNamespaces    map[string]bool
}

func (s *shared) about() runtimeInfo {
	if known := s.runtime.Load(); known != nil {
		return *known
	}
	return runtimeInfo{}
}

// worker runs one pod, from its first sandbox to its last file. All fields below "owned" belong to its goroutine; actions and probes, which run
// beside it, get the pod as it was when they began, and report by post.
type worker struct {
	*shared
	file string // of a static pod; empty: it is the API server's
	log  *slog.Logger

	latest   atomic.Pointer[corev1.Pod] // the newest word of the API server; the worker takes it when it looks
	wakeUp   chan struct{}              // of one place: to be woken twice is to be woken
	end      chan struct{}              // closed: the pod has to go, and nobody waits to hear that it has
	ending   sync.Once
	inbox    chan func() // what actions and probes found, to be done by the worker
	told     atomic.Pointer[told]
	stale    atomic.Bool  // the content of volumes has changed
	updating atomic.Int32 // how many containers are just being given other resources
	evicted  atomic.Pointer[plan.Verdict]
	beside   sync.WaitGroup

	// owned
	pod         *corev1.Pod      // with the resources that the node has agreed to
	asked       *corev1.Pod      // as the API server has it
	pending     *plan.Verdict    // why other resources are not agreed to
	lookAt      time.Time        // when that is asked again
	reported    corev1.PodStatus // the last one told
	memory      plan.Memory
	seen        plan.Observed
	known       map[string]plan.Container // by ID: the last observation
	probes      map[string]context.CancelFunc
	stops       map[string]stopping           // by container ID
	pulls       map[string]context.CancelFunc // by container name: starts that may still be given up
	killed      map[string]bool               // by container ID: an event has said so
	startedAt   time.Time
	terminating time.Time
	grace       int64 // seconds from terminating on
	verdict     *plan.Verdict
	rejection   *plan.Verdict // as the verdict, and nothing of the pod was ever made
	volumesDue  time.Time     // when the content of volumes has to be looked at again
	recorded    bool
	released    bool   // volumes and cgroup of a pod that has ended
	trouble     string // the last error of observing, to be logged once
	delay       time.Duration
}

// told is what others are told of a pod.
type told struct {
	pod   *corev1.Pod // with its status
	extra status.Extra
	seen  plan.Observed
}

func tellOf(pod *corev1.Pod, s corev1.PodStatus, extra status.Extra, seen plan.Observed) *told {
	shown := *pod
	shown.Status = s
	return &told{pod: &shown, extra: extra, seen: seen}
}

func newWorker(s *shared, d desired) *worker {
	log := s.log.With("pod", d.name(), "uid", d.Pod.UID)
	w := &worker{
		shared: s, pod: d.Pod, asked: d.Pod, file: d.File, log: log, reported: *d.Pod.Status.DeepCopy(), startedAt: time.Now(), volumesDue: time.Now(),
		wakeUp: make(chan struct{}, 1), end: make(chan struct{}), inbox: make(chan func(), 16),
		memory: plan.Memory{Busy: map[string]bool{}, Retry: map[string]plan.Retry{}, Health: map[string]plan.Health{}, Hooked: map[string]bool{}, Applied: map[string]string{}},
		known:  map[string]plan.Container{}, probes: map[string]context.CancelFunc{}, pulls: map[string]context.CancelFunc{},
		stops: map[string]stopping{}, killed: map[string]bool{},
	}
	w.latest.Store(d.Pod)
	if start := d.Pod.Status.StartTime; start != nil {
		w.startedAt = start.Time
	}
	w.told.Store(tellOf(d.Pod, w.reported, status.Extra{File: d.File, LogDir: s.node.LogDir}, plan.Observed{}))
	return w
}

// wake makes the worker look at its pod.
func (w *worker) wake() {
	select {
	case w.wakeUp <- struct{}{}:
	default:
	}
}

// update gives the worker its pod as the API server has it now.
func (w *worker) update(pod *corev1.Pod) {
	if w.latest.Swap(pod) != pod {
		w.wake()
	}
}

// terminate makes the pod go. It may be called many times.
func (w *worker) terminate() { w.ending.Do(func() { close(w.end) }) }

// status is what is known of the pod; safe from any goroutine.
func (w *worker) status() status.Pod {
	t := w.told.Load()
	return status.Of(t.pod, &t.pod.Status, t.extra)
}

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
		w.refresh()
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

// refresh takes the newest word of the API server.
func (w *worker) refresh() {
	if w.stale.Swap(false) {
		w.volumesDue = time.Now()
		for name, retry := range w.memory.Retry { // it may be what they waited for
			if retry.Reason == reasonFailedMount || retry.Reason == reasonConfigError {
				delete(w.memory.Retry, name)
			}
		}
	}
	before, now := w.pod, w.latest.Load()
	if now == w.asked && (w.pending == nil || time.Now().Before(w.lookAt)) {
		return
	}
	w.asked = now
	now = w.allocate(before, now)
	w.pod = now
	if now.Generation != before.Generation {
		w.recorded = false
		for name, retry := range w.memory.Retry { // what failed may be what was changed
			if retry.Reason != status.ReasonErrImagePull || imageOfContainer(before, name) != imageOfContainer(now, name) {
				delete(w.memory.Retry, name)
			}
		}
	}
	if !maps.Equal(before.Labels, now.Labels) || !maps.Equal(before.Annotations, now.Annotations) {
		w.volumesDue = time.Now() // some volumes show them
	}
	if now.DeletionTimestamp != nil {
		w.beginToEnd()
	}
}

func imageOfContainer(pod *corev1.Pod, name string) string {
	if c := plan.Find(pod, name); c != nil {
		return c.Image
	}
	return ""
}

// beginToEnd gives up pulls; what else is under way comes to its end first, so that nothing is left half made. When it has begun already, the time
// that containers get may only become shorter.
func (w *worker) beginToEnd() {
	grace := graceOf(w.pod)
	if !w.terminating.IsZero() {
		if grace < w.grace {
			w.log.Info("the pod gets less time to end", "seconds", grace)
			w.grace = grace
			w.hurry()
		}
		return
	}
	w.log.Info("removing the pod", "grace", grace)
	w.terminating, w.grace = time.Now(), grace
	clear(w.memory.Retry)
	for _, cancel := range w.pulls {
		cancel()
	}
}

// graceOf is the kubelet's calculateEffectiveGracePeriod.
func graceOf(pod *corev1.Pod) int64 {
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		grace = *own
	}
	if asked := pod.DeletionGracePeriodSeconds; asked != nil {
		grace = *asked
	}
	return max(grace, 1)
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
	w.note(seen)
	w.watch(ctx)
	deadline := w.judge()
	in := w.input()
	p := plan.Next(in)
	if p.Gone {
		return w.depart(ctx)
	}
	for _, action := range p.Actions {
		w.start(ctx, action)
	}
	due := w.refreshVolumes(ctx)
	w.publish()
	if err := w.release(ctx); err != nil {
		return false, w.troubled(err)
	}
	return false, earliest(p.WakeAt, deadline, due, w.shownUntil(), w.lookAt)
}

// note takes an observation. What an ended run left is read once; one whose postStart hook has not ended counts as not started.
func (w *worker) note(seen plan.Observed) {
	for i := range seen.Containers {
		run := &seen.Containers[i]
		c := plan.Find(w.pod, run.Name)
		if before, was := w.known[run.ID]; run.State == plan.Exited && (!was || before.State != plan.Exited) {
			run.Message = w.message(*run)
		}
		if run.State == plan.Running && w.memory.Busy[run.Name] && w.stops[run.ID].cancel == nil && c != nil && c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
			run.State = plan.Created
		}
	}
	w.seen = seen
	clear(w.known)
	for _, run := range seen.Containers {
		w.known[run.ID] = run
	}
}

// judge finds pods that have been active for too long.
func (w *worker) judge() (due time.Time) {
	if w.verdict == nil {
		w.verdict = w.evicted.Load()
	}
	if w.verdict != nil || !w.terminating.IsZero() || final(w.reported.Phase) {
		return time.Time{}
	}
	w.verdict, due = plan.Deadline(w.pod, w.startedAt, time.Now())
	if w.verdict != nil {
		w.event("", corev1.EventTypeNormal, w.verdict.Reason, w.verdict.Message)
	}
	return due
}

func final(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

func earliest(times ...time.Time) time.Time {
	var found time.Time
	for _, t := range times {
		if !t.IsZero() && (found.IsZero() || t.Before(found)) {
			found = t
		}
	}
	return found
}

// shownUntil is when a failed pull changes its name.
func (w *worker) shownUntil() (next time.Time) {
	for _, retry := range w.memory.Retry {
		if shown := retry.Until.Add(-retry.Delay).Add(status.PullShown); retry.Reason == status.ReasonErrImagePull && time.Now().Before(shown) {
			next = earliest(next, shown)
		}
	}
	return next
}

func (w *worker) input() plan.Input {
	verdict := w.verdict
	if w.rejection != nil {
		verdict = w.rejection
	}
	return plan.Input{
		Pod: w.pod, Terminating: w.terminating, Grace: w.grace, Verdict: verdict, Finished: final(w.pod.Status.Phase) || final(w.reported.Phase),
		StartedAt: w.startedAt, Seen: w.seen, Memory: w.memory, Now: time.Now(),
	}
}

// record writes down what is about to run, before anything of it exists.
func (w *worker) record() error {
	if w.recorded || !w.terminating.IsZero() || w.rejection != nil || final(w.reported.Phase) {
		return nil
	}
	if err := w.store.Save(volume.Record{File: w.file, Pod: w.pod}); err != nil {
		return err
	}
	w.recorded = true
	return nil
}

// depart ends the work on a pod of which the runtime has nothing any more.
func (w *worker) depart(ctx context.Context) (gone bool, next time.Time) {
	if err := w.cleanUp(ctx); err != nil {
		return false, w.troubled(err)
	}
	w.publish()
	switch {
	case w.file != "":
		w.cluster.Unmirror(w.pod)
	case w.pod.DeletionTimestamp != nil:
		w.cluster.Finish(w.pod)
	}
	w.metrics.Forget(string(w.pod.UID))
	w.log.Info("the pod is gone")
	return true, time.Time{}
}

// release gives back what a pod has that ended and waits to be deleted: its volumes' content, and its cgroup. What tells of it stays.
func (w *worker) release(ctx context.Context) error {
	if w.released || !final(w.reported.Phase) || len(w.memory.Busy) > 0 || !over(w.seen) {
		return nil
	}
	if w.cgroups != nil {
		if err := w.cgroups.Remove(ctx, w.pod); err != nil {
			return err
		}
	}
	if err := w.store.Release(string(w.pod.UID)); err != nil {
		return err
	}
	w.released = true
	return nil
}

// over says that nothing of a pod runs.
func over(seen plan.Observed) bool {
	return !slices.ContainsFunc(seen.Containers, func(c plan.Container) bool { return c.State != plan.Exited }) &&
		!slices.ContainsFunc(seen.Sandboxes, func(s plan.Sandbox) bool { return s.Ready })
}

// cleanUp removes what a gone pod leaves on the node.
func (w *worker) cleanUp(ctx context.Context) error {
	if w.cgroups != nil {
		if err := w.cgroups.Remove(ctx, w.pod); err != nil {
			return err
		}
	}
	return errors.Join(w.store.Remove(string(w.pod.UID)), os.RemoveAll(translate.LogDirectory(w.node.LogDir, w.pod)), w.unlinkLogs(""))
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

// publish tells others how the pod is, and the API server if that has changed.
func (w *worker) publish() {
	in := w.input()
	about := w.about()
	sandbox, _ := plan.Current(w.seen)
	s := status.Make(status.Input{
		Input: in, Before: w.reported, Runtime: about.name, HostIPs: w.node.IPs, Static: w.file != "", Pending: w.pending, RecursiveReadOnly: about.recursiveReadOnly[sandbox.Handler],
	})
	if w.rejection != nil && len(w.seen.Containers) == 0 {
		s = status.Rejected(w.pod, *w.rejection, metav1.NewTime(w.startedAt))
	}
	extra := status.Extra{File: w.file, LogDir: w.node.LogDir, Terminating: !w.terminating.IsZero()}
	if retry, ok := w.memory.Retry[plan.SandboxSubject]; ok {
		extra.Reason, extra.Message = retry.Reason, retry.Message
	} else if w.trouble != "" {
		extra.Reason, extra.Message = "Unobserved", w.trouble
	}
	w.told.Store(tellOf(w.pod, s, extra, w.seen))
	if w.trouble == "" && !status.Same(&s, &w.reported) {
		if s.Phase == corev1.PodRunning && w.reported.Phase == corev1.PodPending {
			w.metrics.Started(w.pod.CreationTimestamp.Time, w.startedAt, time.Now())
		}
		w.tellOfBackOff(&s)
		w.tellOfResize(&s)
		w.reported = s
		w.cluster.Report(w.pod, s.DeepCopy())
	}
}

// tellOfBackOff: once each time that a container begins to wait.
func (w *worker) tellOfBackOff(now *corev1.PodStatus) {
	waits := func(s *corev1.PodStatus, name string) string {
		for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
			for i := range list {
				if list[i].Name == name && list[i].State.Waiting != nil {
					return list[i].State.Waiting.Reason
				}
			}
		}
		return ""
	}
	for c := range plan.All(w.pod) {
		reason := waits(now, c.Name)
		if reason == waits(&w.reported, c.Name) {
			continue
		}
		switch reason {
		case status.ReasonCrashLoopBackOff:
			w.event(c.Name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container "+c.Name+" in pod "+status.Identity(w.pod))
		case status.ReasonImagePullBackOff:
			w.event(c.Name, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", c.Image))
			w.event(c.Name, corev1.EventTypeWarning, "Failed", "Error: "+reason)
		}
	}
}

// message is what an ended run of a container left: what the runtime says, its message file, or its log where the pod asks for that.
func (w *worker) message(run plan.Container) string {
	message := w.store.Message(string(w.pod.UID), run.Name, run.Attempt)
	if message == "" && run.ExitCode != 0 {
		c := plan.Find(w.pod, run.Name)
		if c != nil && c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
			message = volume.LogTail(w.logPath(run.Name, run.Attempt))
		}
	}
	if message == "" {
		message = run.Message
	}
	return message
}

// event tells of something that happened to the pod, or to a container of it.
func (w *worker) event(container, kind, reason, message string) {
	tell(w.cluster, w.pod, container, kind, reason, message)
}

func tell(cluster Cluster, pod *corev1.Pod, container, kind, reason, message string) {
	field := ""
	switch {
	case container == "":
	case plan.IsInit(pod, container):
		field = "spec.initContainers{" + container + "}"
	case plan.IsEphemeral(pod, container):
		field = "spec.ephemeralContainers{" + container + "}"
	default:
		field = "spec.containers{" + container + "}"
	}
	cluster.Event(pod, field, kind, reason, message)
}

package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shimd/shimd/node"
	"github.com/shimd/shimd/node/api"
)

// sweepAfter is how long after the first list of pods mirror pods are kept whose static pods nobody has named.
const sweepAfter = 30 * time.Second

// Cluster is the API server, to the agent of one node.
type Cluster struct {
	name     string
	lookups  api.Server
	log      *slog.Logger
	events   *recorder
	stop     context.CancelFunc // of events
	table    *table
	shelf    *shelf
	followed *library
	writer   *writer
	notices  *notices
	synced   chan struct{} // closed when pods have been listed once
	syncOnce sync.Once

	classesMu sync.Mutex
	classes   map[string]class
}

var _ node.Cluster = (*Cluster)(nil)

// New makes the door of the node with this name. Close ends what it does of its own.
func New(connection *Connection, nodeName string, log *slog.Logger) *Cluster {
	ctx, stop := context.WithCancel(context.Background())
	c := &Cluster{
		name: nodeName, lookups: connection.Lookups, log: log, stop: stop, table: newTable(), shelf: &shelf{}, notices: newNotices(),
		synced: make(chan struct{}), classes: map[string]class{},
	}
	c.events = newRecorder(ctx, connection.Events, nodeName, log)
	c.writer = newWriter(connection.Client, c.table, c.shelf.theNode, log)
	c.followed = newLibrary(c.lookups, log, c.notices.objects)
	return c
}

// Close ends the recording of events, when those that wait are written.
func (c *Cluster) Close() error {
	c.stop()
	<-c.events.done
	return nil
}

// Follow implements node.Cluster. It returns when the context has ended and nothing of it is under way any more. It is called once.
func (c *Cluster) Follow(ctx context.Context, listener node.Listener) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { c.notices.deliver(ctx, c, listener) })
	group.Go(func() { c.followed.run(ctx) })
	group.Go(func() {
		reflect(ctx, c.log, c.lookups, c.lookups.Pods(metav1.NamespaceAll),
			fields.OneTermEqualSelector("spec.nodeName", c.name).String(), sink[*corev1.Pod]{set: c.podShown, gone: c.podGone, all: c.podsListed})
	})
	group.Go(func() {
		reflect(ctx, c.log, c.lookups, c.lookups.Nodes(), fields.OneTermEqualSelector(metav1.ObjectNameField, c.name).String(), c.nodeSink())
	})
	group.Go(func() {
		reflect(ctx, c.log, c.lookups, c.lookups.Services(metav1.NamespaceAll), "", sink[*corev1.Service]{
			set: c.shelf.setService, gone: c.shelf.removeService, all: c.shelf.replaceServices,
		})
	})
	select {
	case <-c.synced:
		group.Go(func() { c.writer.run(ctx) })
	case <-ctx.Done():
		return
	}
	select {
	case <-time.After(sweepAfter):
		c.writer.sweep()
	case <-ctx.Done():
	}
}

func (c *Cluster) nodeSink() sink[*corev1.Node] {
	set := func(n *corev1.Node) {
		c.shelf.setNode(n)
		c.notices.node()
	}
	return sink[*corev1.Node]{
		set:  set,
		gone: func(*corev1.Node) {}, // deleted under us: the last word stays, and package register decides
		all: func(nodes []*corev1.Node) {
			for _, n := range nodes {
				set(n)
			}
		},
	}
}

func (c *Cluster) podShown(pod *corev1.Pod) {
	c.refer(pod)
	if !c.table.set(pod) {
		return
	}
	c.writer.shown(pod)
	if !isMirror(pod) {
		c.notices.pods()
	}
}

func (c *Cluster) refer(pod *corev1.Pod) {
	if terminal(pod.Status.Phase) || isMirror(pod) {
		c.followed.refer(pod.UID, nil)
		return
	}
	c.followed.refer(pod.UID, references(pod))
}

func (c *Cluster) podGone(pod *corev1.Pod) {
	c.table.remove(pod)
	c.followed.refer(pod.UID, nil)
	if isMirror(pod) {
		c.writer.shown(pod)
		return
	}
	c.writer.forget(pod.UID)
	c.notices.pods()
}

func (c *Cluster) podsListed(pods []*corev1.Pod) {
	for _, pod := range c.table.replace(pods) {
		c.followed.refer(pod.UID, nil)
		c.writer.forget(pod.UID)
	}
	for _, pod := range pods {
		c.refer(pod)
	}
	c.notices.pods()
	c.syncOnce.Do(func() { close(c.synced) })
	c.writer.again()
}

// Report implements node.Cluster.
func (c *Cluster) Report(pod *corev1.Pod, status *corev1.PodStatus) {
	c.writer.update(pod, func(l *letter) { l.status = status })
}

// Finish implements node.Cluster.
func (c *Cluster) Finish(pod *corev1.Pod) {
	c.writer.update(pod, func(l *letter) { l.finish = true })
}

// Mirror implements node.Cluster. The agent names all of its static pods soon after it starts: mirror pods of others are removed.
func (c *Cluster) Mirror(static *corev1.Pod) { c.writer.mirror(static) }

// Unmirror implements node.Cluster.
func (c *Cluster) Unmirror(static *corev1.Pod) { c.writer.unmirror(static) }

// Event implements node.Cluster.
func (c *Cluster) Event(pod *corev1.Pod, field, kind, reason, message string) {
	c.events.pod(pod, field, kind, reason, message)
}

// NodeEvent records an event about the node itself.
func (c *Cluster) NodeEvent(kind, reason, message string) { c.events.onNode(kind, reason, message) }

// Synced says whether the pods of this node have been listed since the agent started: until then, which pods it has to run isn't known.
func (c *Cluster) Synced() bool {
	select {
	case <-c.synced:
		return true
	default:
		return false
	}
}

// notices are changes that the listener has not been told of yet. They are gathered while it is busy, so that it never falls behind.
type notices struct {
	mu       sync.Mutex
	wake     chan struct{}
	podsNew  bool
	nodeNew  bool
	referers map[types.UID]struct{}
}

func newNotices() *notices {
	return &notices{wake: make(chan struct{}, 1), referers: map[types.UID]struct{}{}}
}

func (n *notices) note(change func()) {
	n.mu.Lock()
	change()
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notices) pods() { n.note(func() { n.podsNew = true }) }
func (n *notices) node() { n.note(func() { n.nodeNew = true }) }

func (n *notices) objects(pods []types.UID) {
	n.note(func() {
		for _, uid := range pods {
			n.referers[uid] = struct{}{}
		}
	})
}

func (n *notices) deliver(ctx context.Context, c *Cluster, listener node.Listener) {
	for {
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
		n.mu.Lock()
		pods, nodeNew, referers := n.podsNew, n.nodeNew, n.referers
		n.podsNew, n.nodeNew, n.referers = false, false, map[types.UID]struct{}{}
		n.mu.Unlock()
		if nodeNew && listener.Node != nil {
			if object, err := c.Node(); err == nil {
				listener.Node(object)
			}
		}
		if pods && listener.Pods != nil {
			listener.Pods(c.table.bound())
		}
		if len(referers) > 0 && listener.Objects != nil {
			uids := make([]string, 0, len(referers))
			for uid := range referers {
				uids = append(uids, string(uid))
			}
			listener.Objects(uids)
		}
	}
}

package register

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"github.com/shimd/shimd/node/api"
)

const (
	// imagesEvery is how often images are listed.
	imagesEvery = 30 * time.Second
	// unready is how often a node that is not ready looks whether it is.
	unready = 500 * time.Millisecond
	// lastTry bounds the wait between tries to register.
	lastTry = 7 * time.Second
)

// Asker tells of the runtime; CRI is one.
type Asker interface {
	Ask(ctx context.Context) Runtime
	List(ctx context.Context) ([]corev1.ContainerImage, error)
}

// Options say what a Registration registers, and whom it asks.
type Options struct {
	Identity Identity
	Config   *kubeletv1beta1.KubeletConfiguration
	Machine  Machine
	Runtime  Asker
	// Pressure, if not nil, tells what the node lacks; Problem what keeps the agent itself from running pods.
	Pressure func() Pressure
	Problem  func() error
	// Client should have limits of its own: cluster.Connection's Heartbeat.
	Client api.Server
	// Node is the object as the watch shows it (cluster.Cluster.Node), so that it needn't be asked for.
	Node func() (*corev1.Node, error)
	// Event records an event about the node (cluster.Cluster.NodeEvent).
	Event func(kind, reason, message string)
	Log   *slog.Logger
}

// Registration keeps the Node object.
type Registration struct {
	o    Options
	wake chan struct{}

	// owned by Run
	last     *corev1.Node // as the API server answered last
	reported time.Time
	spread   time.Duration // so that nodes don't report in step
	images   []corev1.ContainerImage
	listed   time.Time

	mu    sync.Mutex
	ready bool
	uid   types.UID // of the object; empty: not known yet
}

// New prepares a registration.
func New(o Options) *Registration { return &Registration{o: o, wake: make(chan struct{}, 1)} }

// Look has the status looked at now: the runtime has come or gone, pressure has begun or ended.
func (r *Registration) Look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Ready says whether the node was ready at the last look.
func (r *Registration) Ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

// Run registers the node, renews its lease and keeps its status until the context ends.
func (r *Registration) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	if *r.o.Config.RegisterNode && !r.register(ctx) {
		return
	}
	group.Go(func() { r.beat(ctx) })
	r.o.Event(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	for {
		if err := r.update(ctx); err != nil && ctx.Err() == nil {
			r.o.Log.Warn("updating the node's status; it will be tried again", "error", err)
		}
		every := r.o.Config.NodeStatusUpdateFrequency.Duration
		if !r.Ready() {
			every = min(every, unready)
		}
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-r.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (r *Registration) facts(ctx context.Context) facts {
	f := facts{identity: r.o.Identity, config: r.o.Config, machine: r.o.Machine, runtime: r.o.Runtime.Ask(ctx)}
	if time.Since(r.listed) > imagesEvery {
		images, err := r.o.Runtime.List(ctx)
		if err != nil {
			r.o.Log.Debug("listing images for the node's status", "error", err)
		} else {
			r.images, r.listed = images, time.Now()
		}
	}
	f.images = r.images
	if r.o.Pressure != nil {
		f.pressure = r.o.Pressure()
	}
	if r.o.Problem != nil {
		f.problem = r.o.Problem()
	}
	return f
}

// register makes the object, or adopts one, until that has worked; false: the context ended.
func (r *Registration) register(ctx context.Context) bool {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, lastTry) {
		err := r.tryRegister(ctx)
		if err == nil {
			return true
		}
		r.o.Log.Warn("registering the node; it will be tried again", "node", r.o.Identity.Name, "error", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return false
		}
	}
}

func (r *Registration) tryRegister(ctx context.Context) error {
	fresh := object(r.o.Identity, r.o.Config)
	f := r.facts(ctx)
	setStatus(fresh, f, time.Now())
	nodes := r.o.Client.Nodes()
	made, err := nodes.Create(ctx, fresh, metav1.CreateOptions{})
	if err == nil {
		r.o.Log.Info("node registered", "node", made.Name)
		r.took(made, f)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) {
		return fmt.Errorf("making node %s: %w", fresh.Name, err)
	}
	existing, getErr := nodes.Get(ctx, fresh.Name, metav1.GetOptions{})
	if getErr != nil {
		return fmt.Errorf("making node %s: %w; asking for it: %w", fresh.Name, err, getErr)
	}
	adopted := existing.DeepCopy()
	if adopt(adopted, fresh) {
		// The node may change its labels by way of the status, too; the kubelet does it so.
		if existing, err = r.write(ctx, existing, adopted); err != nil {
			return fmt.Errorf("adopting node %s: %w", fresh.Name, err)
		}
	}
	r.o.Log.Info("node was registered before", "node", fresh.Name)
	r.last = existing
	r.mu.Lock()
	r.uid = existing.UID
	r.mu.Unlock()
	return nil
}

// took remembers an answer of the API server to a status.
func (r *Registration) took(node *corev1.Node, f facts) {
	node.ManagedFields = nil
	r.last, r.reported = node, time.Now()
	r.note(node, f)
}

// base is the newest object that is known.
func (r *Registration) base(ctx context.Context) (*corev1.Node, error) {
	shown, err := r.o.Node()
	switch {
	case err == nil && (r.last == nil || !newer(r.last, shown)):
		return shown, nil
	case r.last != nil:
		return r.last, nil
	}
	asked, err := r.o.Client.Nodes().Get(ctx, r.o.Identity.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("asking for node %s: %w", r.o.Identity.Name, err)
	}
	return asked, nil
}

func newer(a, b *corev1.Node) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err != nil || order > 0
}

// update writes the status if it has changed, or was not written for long.
func (r *Registration) update(ctx context.Context) error {
	before, err := r.base(ctx)
	if err != nil {
		return err
	}
	after, f := before.DeepCopy(), r.facts(ctx)
	events := setStatus(after, f, time.Now())
	due := time.Since(r.reported) >= r.o.Config.NodeStatusReportFrequency.Duration+r.spread
	changed := !same(&before.Status, &after.Status)
	if !due && !changed {
		r.note(after, f)
		return nil
	}
	patched, err := r.write(ctx, before, after)
	if err != nil {
		r.last = nil
		return fmt.Errorf("writing the status: %w", err)
	}
	for _, e := range events {
		r.o.Event(e.kind, e.reason, e.message)
	}
	r.spread = 0
	if changed {
		r.spread = time.Duration(float64(r.o.Config.NodeStatusReportFrequency.Duration) * (rand.Float64() - 0.5))
	}
	r.took(patched, f)
	return nil
}

func (r *Registration) note(node *corev1.Node, f facts) {
	ready := Condition(&node.Status, corev1.NodeReady)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uid = node.UID
	r.ready = ready != nil && ready.Status == corev1.ConditionTrue && f.runtime.Problem == nil
}

// write patches a node by way of its status, which may carry labels and annotations, too.
func (r *Registration) write(ctx context.Context, before, after *corev1.Node) (*corev1.Node, error) {
	p, err := patch(before, after)
	if err != nil {
		return nil, err
	}
	return r.o.Client.Nodes().Patch(ctx, before.Name, types.StrategicMergePatchType, p, metav1.PatchOptions{}, "status")
}

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/folder"
	"github.com/shimd/shimd/node/manifest"
	"github.com/shimd/shimd/node/metrics"
	"github.com/shimd/shimd/node/status"
	"github.com/shimd/shimd/node/volume"
)

const (
	// relist is how often the agent looks without having been told, in case an event got lost.
	relist = 20 * time.Second
	// poll is how often it looks at a runtime that tells nothing.
	poll = time.Second
)

// Config says what an agent serves, and with what.
type Config struct {
	Folder         string   // of pod files; empty: none, with a cluster
	Cluster        Cluster  // nil: none
	Endpoint       string   // of the container runtime: unix:///path
	RootDir        string   // the agent's own directory
	LogDir         string   // for the logs of pods
	LogLinks       string   // for links to the logs of containers; empty: none
	NodeName       string   // what pods and identities see as the node's name
	NodeIPs        []string // empty: found out
	ResolvConf     string   // empty: found out
	ClusterDNS     []string // servers for pods that ask for the cluster's
	ClusterDomain  string
	SeccompDefault bool    // RuntimeDefault for containers that ask for nothing
	Cgroups        Cgroups // nil: the runtime's own
	// Pressure, if not nil, says why the node can't take a pod now, for want of memory, disk or processes; "": it can.
	Pressure      func(pod *corev1.Pod) string
	UnsafeSysctls []string // that pods may set beside those that only they feel; * at the end stands for anything
	// Changed, if not nil, is called when the node's object has changed, and when the runtime answers (again). It must return soon.
	Changed func()
	Metrics *metrics.Metrics // nil: nothing is counted
	Log     *slog.Logger
}

// Agent runs the pods of a folder, and those that an API server has bound to its node.
type Agent struct {
	shared
	config Config

	mu       sync.Mutex // guards what follows: Status reads it
	pods     map[string]*entry
	problems map[string]error // by file
	folder   error
	behind   status.Runtime

	// owned by Run
	files    map[string]parsed
	bound    map[string]*corev1.Pod // by UID: the API server's; nil: not told yet
	finished map[string]bool        // by UID: pods of which nothing is left, as long as the API server has them
	adopted  bool
}

// entry is a pod that runs, ran, or has to go.
type entry struct {
	desired
	worker      *worker // nil: not started yet
	terminating bool
	unrecorded  bool // found in the runtime alone: it can be removed, not run
}

// New prepares an agent. It makes its directory and locks it; Close ends both.
func New(config Config) (*Agent, error) {
	if config.Folder == "" && config.Cluster == nil {
		return nil, fmt.Errorf("neither a folder of pod files nor an API server was named; set --pod-manifest-path or --kubeconfig: %w", errdefs.ErrInvalidArgument)
	}
	if config.Folder != "" {
		path, err := filepath.Abs(config.Folder)
		if err != nil {
			return nil, fmt.Errorf("resolving the folder of pod files: %w", err)
		}
		config.Folder = path
	}
	if !filepath.IsAbs(config.LogDir) {
		return nil, fmt.Errorf("the log directory %q is not an absolute path: %w", config.LogDir, errdefs.ErrInvalidArgument)
	}
	for _, ip := range config.NodeIPs {
		if _, err := netip.ParseAddr(ip); err != nil {
			return nil, fmt.Errorf("the node's address %q is not an IP address: %w", ip, errdefs.ErrInvalidArgument)
		}
	}
	if err := checkUnsafeSysctls(config.UnsafeSysctls); err != nil {
		return nil, err
	}
	node, err := describe(config)
	if err != nil {
		return nil, err
	}
	client, err := criclient.Dial(config.Endpoint, config.Metrics.Interceptor())
	if err != nil {
		return nil, err
	}
	store, err := volume.Open(config.RootDir)
	if err != nil {
		client.Close()
		return nil, err
	}
	if config.Cluster == nil {
		config.Cluster = alone{}
	}
	a := &Agent{
		shared: shared{client: client, store: store, cluster: config.Cluster, cgroups: config.Cgroups, metrics: config.Metrics, node: node, log: config.Log},
		config: config, pods: map[string]*entry{}, problems: map[string]error{}, finished: map[string]bool{},
		behind: status.Runtime{Endpoint: config.Endpoint, Error: notAsked},
	}
	a.fits = a.roomFor
	if config.Folder == "" {
		a.files = map[string]parsed{} // none, and that is known
	}
	if _, none := config.Cluster.(alone); none {
		a.bound = map[string]*corev1.Pod{}
	}
	return a, nil
}

// Close ends the connection to the runtime and unlocks the directory. Pods run on.
func (a *Agent) Close() error { return errors.Join(a.client.Close(), a.store.Close()) }

// changes are what the agent's goroutine is told.
type changes struct {
	folder    chan folder.Snapshot
	bound     chan []*corev1.Pod
	connected chan []criclient.Owned // the runtime is there (again): with what it has of ours
	changed   chan string            // a pod's UID; "" for all
	content   chan []string          // UIDs of pods whose volumes have to be looked at
	ended     chan string            // a worker's, whose pod is gone
}

// Run runs pods until the context ends, and leaves them running then.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	c := changes{
		folder: make(chan folder.Snapshot), bound: make(chan []*corev1.Pod), connected: make(chan []criclient.Owned), changed: make(chan string, 64),
		content: make(chan []string), ended: make(chan string),
	}
	beside.Go(func() { a.follow(ctx, c) })
	beside.Go(func() { a.cluster.Follow(ctx, a.listener(ctx, c)) })
	if a.config.Folder != "" {
		watcher := folder.Watcher{Path: a.config.Folder, MaxSize: manifest.MaxSize, Relist: relist, Log: a.log}
		beside.Go(func() { watcher.Run(ctx, func(s folder.Snapshot) { send(ctx, c.folder, s) }) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case snapshot := <-c.folder:
			a.load(snapshot)
		case pods := <-c.bound:
			a.bind(pods)
		case owned := <-c.connected:
			a.adopt(ctx, owned)
		case uid := <-c.changed:
			a.wake(uid)
			continue
		case uids := <-c.content:
			a.refresh(uids)
			continue
		case uid := <-c.ended:
			a.forget(uid)
		}
		a.reconcile(func(w *worker) {
			beside.Go(func() {
				if w.run(ctx) {
					send(ctx, c.ended, string(w.pod.UID))
				}
			})
		})
		a.balance(ctx)
	}
}

func send[T any](ctx context.Context, to chan<- T, what T) {
	select {
	case to <- what:
	case <-ctx.Done():
	}
}

// listener hands on what the API server has.
func (a *Agent) listener(ctx context.Context, c changes) Listener {
	return Listener{
		Pods:    func(pods []*corev1.Pod) { send(ctx, c.bound, pods) },
		Objects: func(uids []string) { send(ctx, c.content, uids) },
		Node:    func(*corev1.Node) { a.somethingChanged() },
	}
}

func (a *Agent) somethingChanged() {
	if a.config.Changed != nil {
		a.config.Changed()
	}
}

// bind takes the API server's pods as they are now.
func (a *Agent) bind(pods []*corev1.Pod) {
	a.bound = map[string]*corev1.Pod{}
	for _, pod := range pods {
		a.bound[string(pod.UID)] = withDefaults(pod)
	}
	for uid := range a.finished {
		if a.bound[uid] == nil {
			delete(a.finished, uid)
		}
	}
}

// withDefaults: an API server sets them; what the agent relies on is there whatever it is given.
func withDefaults(pod *corev1.Pod) *corev1.Pod {
	if pod.Spec.SecurityContext != nil {
		return pod
	}
	pod = pod.DeepCopy()
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{}
	return pod
}

func (a *Agent) forget(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pods, uid)
	if a.bound[uid] != nil {
		a.finished[uid] = true
	}
}

// refresh has volumes looked at whose content has changed.
func (a *Agent) refresh(uids []string) {
	for _, uid := range uids {
		if e := a.pods[uid]; e != nil && e.worker != nil {
			e.worker.stale.Store(true)
			e.worker.wake()
		}
	}
}

// load takes the folder as it is now. One that cannot be listed changes nothing: a folder on a lost mount must not end all pods.
func (a *Agent) load(snapshot folder.Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.folder = snapshot.Err
	if snapshot.Err != nil {
		a.log.Error("the folder of pod files cannot be read; pods run on as they are", "error", snapshot.Err)
		return
	}
	a.files = map[string]parsed{}
	for name, file := range snapshot.Files {
		p := parsed{Err: file.Err}
		if p.Err == nil {
			p.Pod, p.Err = manifest.Decode(manifest.Source{Node: a.config.NodeName, File: name}, file.Data)
		}
		if _, none := a.cluster.(alone); p.Err == nil && !none {
			mirrored(p.Pod, a.config.NodeName)
		}
		a.files[name] = p
	}
}

// adopt takes over what an earlier agent has left: in the runtime, and on disk.
func (a *Agent) adopt(ctx context.Context, owned []criclient.Owned) {
	a.mu.Lock()
	defer a.mu.Unlock()
	records := map[string]volume.Record{}
	first := !a.adopted
	if first {
		a.adopted = true
		var err error
		if records, err = a.store.Load(); err != nil {
			a.log.Error("some records of pods cannot be read", "error", err)
		}
	}
	for uid, record := range records {
		if record.Pod != nil && !a.finished[uid] {
			a.pods[uid] = &entry{desired: desired{File: record.File, Pod: record.Pod}}
		} else if err := a.store.Remove(uid); err != nil { // nothing of it ran: the record comes first
			a.log.Error("removing the directory of a pod that was never recorded", "uid", uid, "error", err)
		}
	}
	for _, pod := range owned {
		if a.pods[pod.UID] == nil {
			a.log.Warn("found a pod without a record", "pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID)
			a.pods[pod.UID] = &entry{desired: bare(pod), unrecorded: true}
		}
	}
	if first && a.cgroups != nil {
		if err := a.cgroups.RemoveOrphans(ctx, func(uid string) bool { return a.pods[uid] != nil }); err != nil {
			a.log.Error("removing cgroups of pods that are gone", "error", err)
		}
	}
}

// balance divides the CPU among the classes of pods.
func (a *Agent) balance(ctx context.Context) {
	if a.cgroups == nil {
		return
	}
	if err := a.cgroups.Balance(ctx, a.Active()); err != nil {
		a.log.Error("dividing the CPU among pods", "error", err)
	}
}

func (a *Agent) wake(uid string) {
	for id, e := range a.pods {
		if e.worker != nil && (uid == "" || uid == id) {
			e.worker.wake()
		}
	}
}

// reconcile makes the workers those of the pods that have to run. A static pod that replaces another one of its name waits until that has gone.
func (a *Agent) reconcile(start func(*worker)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.adopted {
		return // who knows what is there already
	}
	wanted, problems := a.resolve()
	a.note(problems)
	names := map[string]bool{}
	for uid, e := range a.pods {
		names[e.name()] = true
		d, stays := wanted[uid]
		if !stays && e.unrecorded && !a.known(e.File, problems) {
			continue // whether it has to go cannot be told; how to run it, neither
		}
		switch {
		case !stays:
			e.terminating = true
		case e.worker == nil:
			e.desired, e.unrecorded = d, false // as it is now, with its defaults
		case d.File == "":
			e.worker.update(d.Pod)
		}
		if e.worker == nil {
			a.begin(e, start)
		}
		if e.terminating {
			e.worker.terminate()
		}
	}
	for uid, d := range wanted {
		if a.pods[uid] != nil || a.finished[uid] || (d.File != "" && names[d.name()]) {
			continue
		}
		a.log.Info("running a pod", "pod", d.name(), "uid", uid, "file", d.File)
		e := &entry{desired: d}
		rejection := a.admit(d)
		a.pods[uid] = e
		e.worker = newWorker(&a.shared, d)
		e.worker.rejection = rejection
		a.begin(e, start)
	}
}

// begin starts an entry's worker; a static pod is shown by the API server too.
func (a *Agent) begin(e *entry, start func(*worker)) {
	if e.worker == nil {
		e.worker = newWorker(&a.shared, e.desired)
	}
	if e.File != "" && !e.terminating {
		a.cluster.Mirror(e.Pod)
	}
	if e.Pod.DeletionTimestamp != nil {
		e.worker.beginToEnd()
	}
	start(e.worker)
}

// known says whether what a pod came from has been read.
func (a *Agent) known(file string, problems map[string]error) bool {
	if file == "" {
		return a.bound != nil
	}
	return a.files != nil && problems[file] == nil
}

// resolve: as long as the folder or the API server has not been heard, all that ran from it goes on.
func (a *Agent) resolve() (map[string]desired, map[string]error) {
	var static []desired
	wanted := map[string]desired{}
	for _, e := range a.pods {
		switch {
		case e.terminating || e.unrecorded:
		case e.File != "":
			static = append(static, e.desired)
		case a.bound == nil:
			wanted[string(e.Pod.UID)] = e.desired
		}
	}
	for uid, pod := range a.bound {
		wanted[uid] = desired{Pod: pod}
	}
	if a.files == nil {
		for _, d := range static {
			wanted[string(d.Pod.UID)] = d
		}
		return wanted, nil
	}
	files, problems := resolve(a.files, static)
	for uid, d := range files {
		wanted[uid] = d
	}
	return wanted, problems
}

// note logs each problem of a file once.
func (a *Agent) note(problems map[string]error) {
	for file, err := range problems {
		if before := a.problems[file]; before == nil || before.Error() != err.Error() {
			a.log.Error("a pod file does not run as it is", "file", file, "error", err)
		}
	}
	a.problems = problems
}

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

	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/folder"
	"github.com/shimd/shimd/node/manifest"
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
	Folder         string   // of pod files
	Endpoint       string   // of the container runtime: unix:///path
	RootDir        string   // the agent's own directory
	LogDir         string   // for the logs of pods
	NodeName       string   // what pods and identities see as the node's name
	NodeIPs        []string // empty: found out
	ResolvConf     string   // empty: found out
	SeccompDefault bool     // RuntimeDefault for containers that ask for nothing
	Log            *slog.Logger
}

// Agent runs the pods of a folder.
type Agent struct {
	shared
	config Config

	mu       sync.Mutex // guards what follows: Status reads it
	pods     map[string]*entry
	problems map[string]error // by file
	folder   error
	runtime  status.Runtime

	// owned by Run
	files   map[string]parsed
	adopted bool
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
	if config.Folder == "" {
		return nil, fmt.Errorf("no folder of pod files was named; set --pod-manifest-path: %w", errdefs.ErrInvalidArgument)
	}
	path, err := filepath.Abs(config.Folder)
	if err != nil {
		return nil, fmt.Errorf("resolving the folder of pod files: %w", err)
	}
	config.Folder = path
	if !filepath.IsAbs(config.LogDir) {
		return nil, fmt.Errorf("the log directory %q is not an absolute path: %w", config.LogDir, errdefs.ErrInvalidArgument)
	}
	for _, ip := range config.NodeIPs {
		if _, err := netip.ParseAddr(ip); err != nil {
			return nil, fmt.Errorf("the node's address %q is not an IP address: %w", ip, errdefs.ErrInvalidArgument)
		}
	}
	node, err := describe(config)
	if err != nil {
		return nil, err
	}
	client, err := criclient.Dial(config.Endpoint)
	if err != nil {
		return nil, err
	}
	store, err := volume.Open(config.RootDir)
	if err != nil {
		client.Close()
		return nil, err
	}
	return &Agent{
		shared: shared{client: client, store: store, node: node, log: config.Log},
		config: config, pods: map[string]*entry{}, problems: map[string]error{},
		runtime: status.Runtime{Endpoint: config.Endpoint, Error: notAsked},
	}, nil
}

// Close ends the connection to the runtime and unlocks the directory. Pods run on.
func (a *Agent) Close() error { return errors.Join(a.client.Close(), a.store.Close()) }

// changes are what the agent's goroutine is told.
type changes struct {
	folder    chan folder.Snapshot
	connected chan []criclient.Owned // the runtime is there (again): with what it has of ours
	changed   chan string            // a pod's UID; "" for all
	ended     chan string            // a worker's, whose pod is gone
}

// Run runs pods until the context ends, and leaves them running then.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	c := changes{
		folder: make(chan folder.Snapshot), connected: make(chan []criclient.Owned), changed: make(chan string, 64), ended: make(chan string),
	}
	beside.Go(func() { a.follow(ctx, c) })
	watcher := folder.Watcher{Path: a.config.Folder, MaxSize: manifest.MaxSize, Relist: relist, Log: a.log}
	beside.Go(func() {
		watcher.Run(ctx, func(s folder.Snapshot) {
			select {
			case c.folder <- s:
			case <-ctx.Done():
			}
		})
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case snapshot := <-c.folder:
			a.load(snapshot)
		case owned := <-c.connected:
			a.adopt(owned)
		case uid := <-c.changed:
			a.wake(uid)
			continue
		case uid := <-c.ended:
			a.mu.Lock()
			delete(a.pods, uid)
			a.mu.Unlock()
		}
		a.reconcile(func(w *worker) {
			beside.Go(func() {
				if w.run(ctx) {
					select {
					case c.ended <- string(w.pod.UID):
					case <-ctx.Done():
					}
				}
			})
		})
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
		a.files[name] = p
	}
}

// adopt takes over what an earlier agent has left: in the runtime, and on disk.
func (a *Agent) adopt(owned []criclient.Owned) {
	a.mu.Lock()
	defer a.mu.Unlock()
	records := map[string]volume.Record{}
	if !a.adopted {
		a.adopted = true
		var err error
		if records, err = a.store.Load(); err != nil {
			a.log.Error("some records of pods cannot be read", "error", err)
		}
	}
	for uid, record := range records {
		if record.Pod != nil {
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
}

func (a *Agent) wake(uid string) {
	for id, e := range a.pods {
		if e.worker != nil && (uid == "" || uid == id) {
			e.worker.wake()
		}
	}
}

// reconcile makes the workers those of the pods that have to run. A pod that replaces another one of its name waits until that has gone.
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
		if !stays && e.unrecorded && (a.files == nil || problems[e.File] != nil) {
			continue // whether it has to go cannot be told; how to run it, neither
		}
		switch {
		case !stays:
			e.terminating = true
		case e.worker == nil:
			e.desired, e.unrecorded = d, false // decoded by this agent, with its defaults
		}
		if e.worker == nil {
			e.worker = newWorker(&a.shared, e.desired)
			start(e.worker)
		}
		if e.terminating {
			e.worker.terminate()
		}
	}
	for uid, d := range wanted {
		if a.pods[uid] != nil || names[d.name()] {
			continue
		}
		a.log.Info("running a pod", "pod", d.name(), "uid", uid, "file", d.File)
		e := &entry{desired: d, worker: newWorker(&a.shared, d)}
		a.pods[uid] = e
		start(e.worker)
	}
}

// resolve: as long as the folder has not been read, all that ran goes on.
func (a *Agent) resolve() (map[string]desired, map[string]error) {
	var running []desired
	for _, e := range a.pods {
		if !e.terminating && !e.unrecorded {
			running = append(running, e.desired)
		}
	}
	if a.files != nil {
		return resolve(a.files, running)
	}
	wanted := map[string]desired{}
	for _, d := range running {
		wanted[string(d.Pod.UID)] = d
	}
	return wanted, nil
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

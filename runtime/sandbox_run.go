package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/network"
	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/request"
)

// RunSandbox makes a sandbox ready.
//
// It is resumable: a client that asks again with the same metadata joins the run under way, or gets the sandbox that is ready.
func (r *Runtime) RunSandbox(ctx context.Context, cfg request.Sandbox) (SandboxID, error) {
	if err := r.checkHandler(cfg); err != nil {
		return "", err
	}
	for {
		s, run, err := r.admitSandbox(ctx, cfg)
		if err != nil {
			return "", err
		}
		if run == nil {
			return s.id, nil
		}
		if err := run.wait(ctx); err != nil {
			return "", fmt.Errorf("running sandbox %s/%s: %w", cfg.Metadata.Namespace, cfg.Metadata.Name, err)
		}
		if !run.undoes {
			return s.id, nil
		}
	}
}

// admitSandbox finds the sandbox that the request means, or enters a new one and starts its run.
// The flight is nil when the sandbox is ready already.
func (r *Runtime) admitSandbox(ctx context.Context, cfg request.Sandbox) (*sandbox, *flight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := metadataKey(cfg.Metadata)
	if s, ok := r.byMetadata[key]; ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case !sameRequest(s.record.Config, cfg):
			return nil, nil, fmt.Errorf("sandbox %s has the metadata %s with another configuration: remove it, or raise the attempt: %w", s.id, key, errdefs.ErrAlreadyExists)
		case s.run != nil:
			return s, s.run, nil
		case s.record.Phase == sandboxReady:
			return s, nil, nil
		case s.record.Phase == sandboxMaking:
			s.run = r.undoAgain(ctx, s)
			return s, s.run, nil
		}
		return nil, nil, fmt.Errorf("sandbox %s has the metadata %s and is stopped: remove it, or raise the attempt: %w", s.id, key, errdefs.ErrAlreadyExists)
	}
	s := r.newSandbox(sandboxRecord{ID: SandboxID(newID()), Phase: sandboxMaking, Config: cfg, CreatedAt: time.Now()})
	r.sandboxes[s.id] = s
	r.byMetadata[key] = s
	s.op.Lock()
	s.mu.Lock() // a run that fails at once must find itself entered
	defer s.mu.Unlock()
	s.run = takeOff(ctx, func(ctx context.Context) error {
		defer s.op.Unlock()
		return r.runSandbox(ctx, s)
	})
	return s, s.run, nil
}

// runSandbox is the flow of RunPodSandbox:
//
//  1. record the intent
//  2. name the pod's cgroup, and make it if it is the runtime's own
//  3. write hosts, hostname and resolv.conf
//  4. make and pin the namespaces, with hostname and sysctls
//  5. hold a shared PID namespace
//  6. mount /dev/shm
//  7. attach the network
//  8. record it ready
//
// What fails is undone by the steps of Stop and Remove.
func (r *Runtime) runSandbox(ctx context.Context, s *sandbox) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undoSandbox(ctx, s))
		}
		s.mu.Lock()
		s.run = nil
		s.mu.Unlock()
		if err == nil {
			r.announce(EventCreated, s, nil)
			r.announce(EventStarted, s, nil)
		}
	}()
	cfg := s.record.Config
	steps := []struct {
		name string
		do   func() error
	}{
		{"sandbox.record", func() error { return r.recordSandbox(s) }},
		{"sandbox.cgroup", func() error { return r.makePodCgroup(ctx, s) }},
		{"sandbox.files", func() error { return r.writeSandboxFiles(s) }},
		{"sandbox.namespaces", func() error { return r.makeSandboxNamespaces(ctx, s) }},
		{"sandbox.pause", func() error { return r.holdPIDNamespace(ctx, s) }},
		{"sandbox.shm", func() error { return mountShm(s) }},
		{"sandbox.network", func() error { return r.attachNetwork(ctx, s, cfg) }},
		{"sandbox.ready", func() error {
			return s.update(func(record *sandboxRecord) { record.Phase = sandboxReady })
		}},
	}
	for _, step := range steps {
		if err := r.step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

// undoAgain takes away what a failed run has left and could not undo.
func (r *Runtime) undoAgain(ctx context.Context, s *sandbox) *flight {
	undo := takeOff(ctx, func(ctx context.Context) error {
		s.op.Lock()
		defer s.op.Unlock()
		err := r.undoSandbox(ctx, s)
		s.mu.Lock()
		s.run = nil
		s.mu.Unlock()
		return err
	})
	undo.undoes = true
	return undo
}

// undoSandbox takes a half-made sandbox away.
func (r *Runtime) undoSandbox(ctx context.Context, s *sandbox) error {
	ctx, cancel := teardown(ctx)
	defer cancel()
	if err := errors.Join(r.stopSandbox(ctx, s), r.removeSandbox(ctx, s)); err != nil {
		return fmt.Errorf("undoing it: %w", err)
	}
	return nil
}

func (r *Runtime) recordSandbox(s *sandbox) error {
	if err := privateDir(s.dir, s.snapshot().Config.Namespaces.User); err != nil {
		return fmt.Errorf("making the sandbox's directory: %w", err)
	}
	if err := s.update(func(*sandboxRecord) {}); err != nil {
		return err
	}
	return r.labelSandbox(s)
}

// makePodCgroup settles where the pod's cgroup is. A client that names a parent (the kubelet) has made it and limits it itself.
func (r *Runtime) makePodCgroup(ctx context.Context, s *sandbox) error {
	cfg := s.record.Config
	path, owned, err := r.Cgroups.PodParent(cfg.CgroupParent, string(s.id))
	if err != nil {
		return fmt.Errorf("cgroup parent %q: %w", cfg.CgroupParent, err)
	}
	if err := s.update(func(record *sandboxRecord) { record.Cgroup, record.OwnsCgroup = path, owned }); err != nil {
		return err
	}
	if !owned {
		return nil
	}
	limits, err := r.podResources(cfg)
	if err != nil {
		return err
	}
	cgroup, err := r.Cgroups.Create(ctx, path, limits)
	if err != nil {
		return fmt.Errorf("making the pod's cgroup %s: %w", path, err)
	}
	s.mu.Lock()
	s.cgroup = cgroup
	s.mu.Unlock()
	return nil
}

// makeSandboxNamespaces makes what the pod does not share with the node. The UTS namespace goes with the network's.
func (r *Runtime) makeSandboxNamespaces(ctx context.Context, s *sandbox) error {
	cfg := s.record.Config
	flags := namespaceFlags(cfg)
	sysctls, err := ocispec.PodSysctls(cfg)
	if err != nil {
		return err
	}
	inside := func() error {
		if flags&unix.CLONE_NEWUTS != 0 {
			if err := unix.Sethostname([]byte(hostname(s))); err != nil {
				return fmt.Errorf("setting the hostname %q: %w", hostname(s), err)
			}
		}
		return writeSysctls(sysctls)
	}
	if cfg.Namespaces.User != nil {
		return r.makeUserNamespace(ctx, s, flags, inside)
	}
	if flags == 0 {
		return nil
	}
	return makeNamespaces(s.dir, flags, inside)
}

// attachNetwork connects the sandbox. The room writes its own record of the intent first.
func (r *Runtime) attachNetwork(ctx context.Context, s *sandbox, cfg request.Sandbox) error {
	if !ownNetwork(cfg) {
		return nil
	}
	req, err := networkRequest(s, cfg)
	if err != nil {
		return err
	}
	result, err := r.Network.Attach(ctx, req)
	if err != nil {
		return fmt.Errorf("attaching the network: %w", err)
	}
	ips := make([]string, 0, len(result.IPs))
	for _, ip := range result.IPs {
		ips = append(ips, ip.String())
	}
	s.mu.Lock()
	s.record.IPs = ips // written with the next step's record
	s.mu.Unlock()
	return r.addToHosts(s, ips)
}

func networkRequest(s *sandbox, cfg request.Sandbox) (network.Request, error) {
	req := network.Request{
		ID:           string(s.id),
		NetNSPath:    s.namespacePath("net"),
		Name:         cfg.Metadata.Name,
		Namespace:    cfg.Metadata.Namespace,
		UID:          cfg.Metadata.UID,
		Labels:       cfg.Labels,
		Annotations:  cfg.Annotations,
		CgroupParent: cfg.CgroupParent,
	}
	if cfg.DNS != nil {
		req.DNS = &network.DNS{Servers: cfg.DNS.Servers, Searches: cfg.DNS.Searches, Options: cfg.DNS.Options}
	}
	for _, mapping := range cfg.PortMappings {
		if mapping.HostPort == 0 {
			continue
		}
		published, err := publishedPort(mapping)
		if err != nil {
			return network.Request{}, err
		}
		req.PortMappings = append(req.PortMappings, published)
	}
	return req, nil
}

// Package logrotate keeps the logs of containers from filling the disk: one that has grown too large is set aside and the runtime told to begin another;
// of those set aside all but the newest are compressed, and the oldest removed.
//
// Inside: when, and the order of steps that a crash may interrupt anywhere. Not inside: reading logs (package containerlog), and removing those of
// containers that are gone (package plan).
//
// A log is looked at by one stat every ten seconds. inotify would cost more: it wakes for every line that is written, and there are few instances.
package logrotate

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The names of what was set aside are the kubelet's: collectors of logs know them.
const (
	timestamp  = "20060102-150405"
	compressed = ".gz"
	unfinished = ".tmp"
)

// Policy is what a KubeletConfiguration says of logs.
type Policy struct {
	MaxSize  int64         // bytes (containerLogMaxSize); negative: logs are not rotated
	MaxFiles int           // of one container, with the one being written (containerLogMaxFiles); 2 or more
	Workers  int           // logs rotated at the same time (containerLogMaxWorkers)
	Interval time.Duration // (containerLogMonitorInterval)
}

// Runtime is what is asked of the runtime; a CRI client has it.
type Runtime interface {
	ListContainers(ctx context.Context, in *criv1.ListContainersRequest, opts ...grpc.CallOption) (*criv1.ListContainersResponse, error)
	ContainerStatus(ctx context.Context, in *criv1.ContainerStatusRequest, opts ...grpc.CallOption) (*criv1.ContainerStatusResponse, error)
	ReopenContainerLog(ctx context.Context, in *criv1.ReopenContainerLogRequest, opts ...grpc.CallOption) (*criv1.ReopenContainerLogResponse, error)
}

// Rotator rotates the logs of all containers that run.
type Rotator struct {
	policy  Policy
	runtime Runtime
	log     *slog.Logger
	now     func() time.Time
	paths   map[string]string // of logs, by container
}

// New checks the policy.
func New(policy Policy, runtime Runtime, log *slog.Logger) (*Rotator, error) {
	if policy.MaxSize >= 0 && policy.MaxFiles < 2 {
		return nil, fmt.Errorf("containerLogMaxFiles %d: use 2 or more, with the log being written: %w", policy.MaxFiles, errdefs.ErrInvalidArgument)
	}
	policy.Workers = max(policy.Workers, 1)
	policy.Interval = cmp.Or(policy.Interval, 10*time.Second)
	return &Rotator{policy: policy, runtime: runtime, log: log, now: time.Now, paths: map[string]string{}}, nil
}

// Run looks again and again until the context ends.
func (r *Rotator) Run(ctx context.Context) {
	if r.policy.MaxSize < 0 {
		return
	}
	ticker := time.NewTicker(r.policy.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := r.Round(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("rotating logs", "error", err)
			}
		}
	}
}

// Round looks at every log once. What one container's log comes to does not hinder the others.
func (r *Rotator) Round(ctx context.Context) error {
	answer, err := r.runtime.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{
		State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return fmt.Errorf("listing the containers whose logs may be too large: %w", err)
	}
	paths := make(map[string]string, len(answer.Containers))
	var failures []error
	for _, container := range answer.Containers {
		path, known := r.paths[container.Id]
		if !known {
			if path, err = r.path(ctx, container.Id); err != nil {
				failures = append(failures, err)
				continue
			}
		}
		paths[container.Id] = path
	}
	r.paths = paths
	var (
		mu      sync.Mutex
		working sync.WaitGroup
	)
	slots := make(chan struct{}, r.policy.Workers)
	for id, path := range paths {
		large, err := r.look(ctx, id, path)
		if err != nil {
			failures = append(failures, err)
		}
		if !large {
			continue
		}
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			if err := r.rotate(ctx, id, path); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, fmt.Errorf("rotating log %s: %w", path, err))
			}
		})
	}
	working.Wait()
	return errors.Join(failures...)
}

func (r *Rotator) path(ctx context.Context, id string) (string, error) {
	answer, err := r.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return "", fmt.Errorf("asking for the log of container %s: %w", id, err)
	}
	return answer.GetStatus().GetLogPath(), nil // empty: it has none
}

// look says whether a log is too large. One that is not there was set aside by an agent that ended before it told the runtime.
func (r *Rotator) look(ctx context.Context, id, path string) (bool, error) {
	if path == "" {
		return false, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, r.reopen(ctx, id)
	} else if err != nil {
		return false, fmt.Errorf("looking at a log: %w", err)
	}
	return info.Mode().IsRegular() && info.Size() >= r.policy.MaxSize, nil
}

func (r *Rotator) reopen(ctx context.Context, id string) error {
	if _, err := r.runtime.ReopenContainerLog(ctx, &criv1.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("telling the runtime to begin another log of container %s: %w", id, err)
	}
	return nil
}

// rotate sets a log aside:
//
//  1. what an interrupted round has left is removed
//  2. the oldest go, so that with the two of step 4 there are no more than may be
//  3. those set aside before are compressed; the newest waits for the next time, since somebody may be reading its end
//  4. the log is renamed and the runtime told; if that fails, it is renamed back
func (r *Rotator) rotate(ctx context.Context, id, path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), filepath.Base(path)+".") {
			names = append(names, filepath.Join(filepath.Dir(path), entry.Name()))
		}
	}
	keep, drop := sort(names, r.policy.MaxFiles)
	for _, name := range drop {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range keep {
		if strings.HasSuffix(name, compressed) {
			continue
		}
		if err := compress(name); err != nil {
			return err
		}
	}
	aside := path + "." + r.now().Format(timestamp)
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if err := r.reopen(ctx, id); err != nil {
		return errors.Join(err, os.Rename(aside, path))
	}
	return nil
}

// sort says what stays of the logs set aside, and what goes: leftovers, and the oldest ones.
func sort(names []string, maxFiles int) (keep, drop []string) {
	for _, name := range names {
		if strings.HasSuffix(name, unfinished) || slices.Contains(names, name+compressed) {
			drop = append(drop, name)
		} else {
			keep = append(keep, name)
		}
	}
	slices.Sort(keep)
	excess := max(0, len(keep)-max(0, maxFiles-2))
	return keep[excess:], append(drop, keep[:excess]...)
}

// compress replaces a file by a compressed one, which is there whole or not at all.
func compress(path string) (err error) {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenFile(path+unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer func() {
		to.Close()
		if err != nil {
			err = errors.Join(fmt.Errorf("compressing %s: %w", path, err), os.Remove(path+unfinished))
		}
	}()
	writer := gzip.NewWriter(to)
	if _, err := io.Copy(writer, from); err != nil {
		return err
	}
	if err := writer.Close(); err != nil {
		return err
	}
	if err := to.Close(); err != nil {
		return err
	}
	if err := os.Rename(path+unfinished, path+compressed); err != nil {
		return err
	}
	return os.Remove(path)
}

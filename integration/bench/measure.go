// Package bench measures a container runtime over CRI alone: latencies of a pod's life, churn, memory and idle CPU.
//
// It works with any CRI endpoint. Starting a runtime is its caller's; running the measurements on a quiet machine is the reader's.
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
)

// Options of a run.
type Options struct {
	Image     string
	Handler   string        // runtime handler; "" for the default
	Rounds    int           // pods for latencies, one after the other
	Workers   int           // of the churn
	ChurnPods int           // pods of the churn, all workers together
	IdlePods  int           // pods that stand still while memory and CPU are looked at
	Idle      time.Duration // how long they do
	Processes ProcessFilter // which processes are the runtime's
	Progress  func(format string, args ...any)
}

// Latency are percentiles in milliseconds.
type Latency struct {
	Name    string  `json:"name"`
	P50     float64 `json:"p50ms"`
	P95     float64 `json:"p95ms"`
	P99     float64 `json:"p99ms"`
	Samples int     `json:"samples"`
}

// Report is all that was measured.
type Report struct {
	Runtime      string    `json:"runtime"`
	Latencies    []Latency `json:"latencies"`
	PodsPerSec   float64   `json:"podsPerSecond"`
	ChurnWorkers int       `json:"churnWorkers"`
	Idle         *Idle     `json:"idle"`
}

// warmUp rounds fill caches before any is counted.
const warmUp = 5

// The steps of a pod's life, in order, and what they add up to.
const (
	stepRun       = "RunPodSandbox"
	stepCreate    = "CreateContainer"
	stepStart     = "StartContainer"
	stepStop      = "StopContainer"
	stepStopPod   = "StopPodSandbox"
	stepRemove    = "RemoveContainer"
	stepRemovePod = "RemovePodSandbox"
	wholeStart    = "start, whole"
	wholeStop     = "stop and remove, whole"
	stepExec      = "ExecSync true"
)

func order() []string {
	return []string{stepRun, stepCreate, stepStart, wholeStart, stepStop, stepStopPod, stepRemove, stepRemovePod, wholeStop, stepExec}
}

// Run measures.
func Run(ctx context.Context, client *criclient.Client, opts Options) (*Report, error) {
	version, err := client.Version(ctx, &criv1.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the runtime who it is: %w", err)
	}
	report := &Report{Runtime: version.RuntimeName + " " + version.RuntimeVersion, ChurnWorkers: opts.Workers}
	opts.Progress("pulling %s", opts.Image)
	image, err := client.Pull(ctx, opts.Image)
	if err != nil {
		return nil, err
	}
	m := &measurement{client: client, opts: opts, image: image, samples: map[string][]time.Duration{}}
	opts.Progress("%d pods, one after the other", opts.Rounds)
	if err := m.rounds(ctx); err != nil {
		return nil, err
	}
	opts.Progress("%d commands in a container", opts.Rounds)
	if err := m.execs(ctx); err != nil {
		return nil, err
	}
	for _, name := range order() {
		report.Latencies = append(report.Latencies, percentiles(name, m.samples[name]))
	}
	opts.Progress("%d pods by %d workers", opts.ChurnPods, opts.Workers)
	if report.PodsPerSec, err = m.churn(ctx); err != nil {
		return nil, err
	}
	opts.Progress("%d pods at rest", opts.IdlePods)
	if report.Idle, err = m.idle(ctx); err != nil {
		return nil, err
	}
	return report, nil
}

type measurement struct {
	client  *criclient.Client
	opts    Options
	image   string
	samples map[string][]time.Duration
}

// life is one pod with one container, and how long each step of it took.
type life struct {
	pod, container string
	took           map[string]time.Duration
}

func (l *life) step(name, whole string, call func() error) error {
	begin := time.Now()
	if err := call(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(begin)
	l.took[name] = took
	l.took[whole] += took
	return nil
}

func (m *measurement) start(ctx context.Context) (*life, error) {
	l := &life{took: map[string]time.Duration{}}
	pod := m.client.Sandbox("bench")
	container := criclient.Container("main", m.image, "sleep", "1000000")
	container.LogPath = ""
	if err := l.step(stepRun, wholeStart, func() error {
		answer, err := m.client.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: pod, RuntimeHandler: m.opts.Handler})
		l.pod = answer.GetPodSandboxId()
		return err
	}); err != nil {
		return l, err
	}
	if err := l.step(stepCreate, wholeStart, func() error {
		answer, err := m.client.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: l.pod, Config: container, SandboxConfig: pod})
		l.container = answer.GetContainerId()
		return err
	}); err != nil {
		return l, err
	}
	return l, l.step(stepStart, wholeStart, func() error {
		_, err := m.client.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: l.container})
		return err
	})
}

// remove stops by SIGKILL: how long a program takes to heed SIGTERM is not the runtime's.
func (m *measurement) remove(ctx context.Context, l *life) error {
	if l.container == "" {
		if l.pod == "" {
			return nil
		}
		return m.client.Remove(ctx, l.pod)
	}
	return errors.Join(
		l.step(stepStop, wholeStop, func() error {
			_, err := m.client.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: l.container})
			return err
		}),
		l.step(stepStopPod, wholeStop, func() error {
			_, err := m.client.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: l.pod})
			return err
		}),
		l.step(stepRemove, wholeStop, func() error {
			_, err := m.client.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: l.container})
			return err
		}),
		l.step(stepRemovePod, wholeStop, func() error {
			_, err := m.client.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: l.pod})
			return err
		}))
}

func (m *measurement) live(ctx context.Context) (*life, error) {
	l, err := m.start(ctx)
	return l, errors.Join(err, m.remove(ctx, l))
}

func (m *measurement) rounds(ctx context.Context) error {
	for n := range m.opts.Rounds + warmUp {
		l, err := m.live(ctx)
		if err != nil {
			return err
		}
		if n < warmUp {
			continue
		}
		for name, took := range l.took {
			m.samples[name] = append(m.samples[name], took)
		}
	}
	return nil
}

func (m *measurement) execs(ctx context.Context) (err error) {
	l, err := m.start(ctx)
	defer func() { err = errors.Join(err, m.remove(ctx, l)) }()
	if err != nil {
		return err
	}
	for n := range m.opts.Rounds + warmUp {
		begin := time.Now()
		_, code, err := m.client.Exec(ctx, l.container, "true")
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("%s ended with status %d", stepExec, code)
		}
		if n >= warmUp {
			m.samples[stepExec] = append(m.samples[stepExec], time.Since(begin))
		}
	}
	return nil
}

// churn starts and removes pods by several workers at once, and answers how many a second went through.
func (m *measurement) churn(ctx context.Context) (float64, error) {
	var left atomic.Int64
	left.Store(int64(m.opts.ChurnPods))
	failures := make(chan error, m.opts.Workers)
	var workers sync.WaitGroup
	begin := time.Now()
	for range m.opts.Workers {
		workers.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := m.live(ctx); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	workers.Wait()
	took := time.Since(begin)
	close(failures)
	var err error
	for failure := range failures {
		err = errors.Join(err, failure)
	}
	return float64(m.opts.ChurnPods) / took.Seconds(), err
}

func percentiles(name string, samples []time.Duration) Latency {
	sorted := slices.Sorted(slices.Values(samples))
	at := func(share float64) float64 {
		if len(sorted) == 0 {
			return 0
		}
		return float64(sorted[min(len(sorted)-1, int(share*float64(len(sorted))))].Microseconds()) / 1000
	}
	return Latency{Name: name, P50: at(0.50), P95: at(0.95), P99: at(0.99), Samples: len(sorted)}
}

package cluster

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/shimd/shimd/node/api"
)

// Options say how to reach the API server. Zero rates mean the kubelet's defaults.
type Options struct {
	Kubeconfig string  // file
	UserAgent  string  // such as "shimlet/v1.2.3"
	QPS        float32 // kubeAPIQPS; negative: without limit
	Burst      int     // kubeAPIBurst
	EventQPS   float32 // eventRecordQPS; negative: without limit
	EventBurst int     // eventBurst
	// HeartbeatTimeout bounds each request of the heartbeat client; 0: 10 s, a quarter of the lease.
	HeartbeatTimeout time.Duration
}

// Connection holds clients of one API server. They share connections, and have limits of their own, so that many events hold up no status, many
// statuses no look-up, and nothing a heartbeat.
type Connection struct {
	// Config is how the clients connect, JSON preferred, without limits: for clients of other groups.
	Config    *rest.Config
	Client    api.Server // statuses, reviews
	Lookups   api.Server // what pods refer to, their tokens, watches
	Events    api.Server
	Heartbeat api.Server
}

// Connect makes the clients; it sends nothing. A certificate and key that are files are read again for each connection, and looked at every few
// minutes: when they have changed, connections are made anew.
func Connect(o Options) (*Connection, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig %s: %w: %w", o.Kubeconfig, err, errdefs.ErrInvalidArgument)
	}
	return connect(config, o)
}

func connect(config *rest.Config, o Options) (*Connection, error) {
	config.UserAgent = o.UserAgent
	config.QPS, config.Burst = -1, 0
	plain := rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to connect to %s: %w: %w", config.Host, err, errdefs.ErrInvalidArgument)
	}
	scheme, err := api.Scheme()
	if err != nil {
		return nil, err
	}
	c := &Connection{Config: plain}
	main := rest.CopyConfig(config)
	main.QPS, main.Burst = or(o.QPS, 50), or(o.Burst, 100)
	if c.Client, err = api.New(main, scheme, transport); err != nil {
		return nil, fmt.Errorf("making a client of %s: %w", config.Host, err)
	}
	if c.Lookups, err = api.New(main, scheme, transport); err != nil {
		return nil, err
	}
	events := rest.CopyConfig(config)
	events.QPS, events.Burst = or(o.EventQPS, 50), or(o.EventBurst, 100)
	if c.Events, err = api.New(events, scheme, transport); err != nil {
		return nil, fmt.Errorf("making a client for events of %s: %w", config.Host, err)
	}
	config.Timeout = or(o.HeartbeatTimeout, 10*time.Second)
	bounded := *transport
	bounded.Timeout = config.Timeout
	if c.Heartbeat, err = api.New(config, scheme, &bounded); err != nil {
		return nil, fmt.Errorf("making a client for heartbeats of %s: %w", config.Host, err)
	}
	return c, nil
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

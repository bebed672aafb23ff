package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"github.com/shimd/shimd/node"
	"github.com/shimd/shimd/node/kubeletconfig"
)

const usage = `shimlet --kubeconfig FILE [--config FILE] [flags]: run the pods that a cluster binds to this node
shimlet --pod-manifest-path DIR [flags]: run the pods whose files (*.yaml, *.yml, *.json) stand in a folder
shimlet status [-o json]: show them

Flags, named as the kubelet's where it has them:
`

// options are the flags, completed by the configuration file.
type options struct {
	node.Config
	kubeconfig, config, configDir, certDir string
	bootstrapKubeconfig                    string
	socket, healthz, logLevel, nodeIPs     string
	nodeLabels                             string
	cgroupRoot                             string
	registerNode                           bool
	verbosity                              int
	version                                bool

	kubelet *kubeletv1beta1.KubeletConfiguration
	written map[string]bool // flags that were given, by name
}

func (o *options) flags() *flag.FlagSet {
	flags := flag.NewFlagSet("shimlet", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "`file` that says where the API server is, and who this node is to it; empty: no cluster")
	flags.StringVar(&o.bootstrapKubeconfig, "bootstrap-kubeconfig", "", "`file` to ask for a client certificate with, where --kubeconfig is not there yet or its certificate has ended")
	flags.StringVar(&o.config, "config", "", "KubeletConfiguration `file` (kubelet.config.k8s.io/v1beta1)")
	flags.StringVar(&o.configDir, "config-dir", "", "`folder` of *.conf files that are merged over it")
	flags.StringVar(&o.certDir, "cert-dir", "", "`directory` for certificates that were asked for, and a serving one where the configuration names none (default: pki below --root-dir)")
	flags.StringVar(&o.NodeName, "hostname-override", "", "`name` of the node (default: the host's name)")
	flags.StringVar(&o.NodeName, "node-name", "", "the same as --hostname-override")
	flags.StringVar(&o.nodeIPs, "node-ip", "", "`addresses` of the node, separated by commas (default: where the default route leaves from)")
	flags.StringVar(&o.nodeLabels, "node-labels", "", "`labels` that the node gets when it is registered: KEY=VALUE,...")
	flags.BoolVar(&o.registerNode, "register-node", true, "make the node's object if the API server has none")
	flags.StringVar(&o.cgroupRoot, "cgroup-root", "", "`cgroup` that pods are below (default: the configuration's)")
	flags.StringVar(&o.Folder, "pod-manifest-path", "", "`folder` of pod files (default: staticPodPath of the configuration)")
	flags.StringVar(&o.Endpoint, "container-runtime-endpoint", defaultEndpoint, "CRI `endpoint`: unix:///path/to/socket")
	flags.StringVar(&o.RootDir, "root-dir", "/var/lib/shimlet", "`directory` for volumes and records")
	flags.StringVar(&o.LogDir, "log-dir", "/var/log/pods", "`directory` for the logs of pods")
	flags.StringVar(&o.ResolvConf, "resolv-conf", "", "resolver configuration `file` for pods (default: the system's)")
	flags.BoolVar(&o.SeccompDefault, "seccomp-default", false, "the runtime's default seccomp profile for containers that ask for none")
	flags.StringVar(&o.socket, "socket", defaultSocket, "unix `socket` for shimlet status and /healthz")
	flags.StringVar(&o.healthz, "healthz-address", defaultHealthz, "`address` for /healthz without a cluster; empty: only on the socket")
	flags.StringVar(&o.logLevel, "log-level", "", "debug, info, warn or error")
	flags.IntVar(&o.verbosity, "v", 0, "the kubelet's `number` for the log level: from 4 on it is debug")
	flags.BoolVar(&o.version, "version", false, "print the version")
	for _, name := range []string{"runtime-cgroups", "kubelet-cgroups", "system-cgroups", "vmodule"} { // of the kubelet's own processes
		flags.String(name, "", "accepted, without effect")
	}
	return flags
}

func serve(args []string) error {
	o := options{written: map[string]bool{}}
	flags := o.flags()
	if err := parse(flags, args); err != nil {
		return err
	}
	if o.version {
		fmt.Println("shimlet", version)
		return nil
	}
	flags.Visit(func(f *flag.Flag) { o.written[f.Name] = true })
	if err := o.complete(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return o.agent(ctx)
}

// complete fills in what depends on the machine, on the configuration file or on other flags.
func (o *options) complete() error {
	level := slog.LevelInfo
	if o.verbosity >= 4 {
		level = slog.LevelDebug
	}
	if o.logLevel != "" {
		if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
			return fmt.Errorf("--log-level %q: use debug, info, warn or error", o.logLevel)
		}
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(o.Log)
	if o.nodeIPs != "" {
		o.NodeIPs = strings.Split(o.nodeIPs, ",")
	}
	if o.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("asking for the host's name (or set --hostname-override): %w", err)
		}
		o.NodeName = name
	}
	o.NodeName = strings.ToLower(strings.TrimSpace(o.NodeName))
	return o.configure()
}

// configure reads the configuration file; flags win over it.
func (o *options) configure() error {
	var err error
	if o.kubelet, err = kubeletconfig.Load(o.config, o.configDir); err != nil {
		return err
	}
	for _, field := range kubeletconfig.Unhonoured(o.kubelet) {
		o.Log.Warn("a field of the configuration is not honoured", "field", field)
	}
	k := o.kubelet
	unless := func(flag string, to *string, value string) {
		if !o.written[flag] && value != "" {
			*to = value
		}
	}
	unless("container-runtime-endpoint", &o.Endpoint, k.ContainerRuntimeEndpoint)
	unless("pod-manifest-path", &o.Folder, k.StaticPodPath)
	unless("cgroup-root", &o.cgroupRoot, k.CgroupRoot)
	unless("log-dir", &o.LogDir, k.PodLogsDir)
	if k.ResolverConfig != nil && o.config != "" {
		unless("resolv-conf", &o.ResolvConf, resolvConf(*k.ResolverConfig))
	}
	if k.SeccompDefault != nil && !o.written["seccomp-default"] {
		o.SeccompDefault = *k.SeccompDefault
	}
	o.UnsafeSysctls = k.AllowedUnsafeSysctls
	o.ClusterDNS, o.ClusterDomain = k.ClusterDNS, k.ClusterDomain
	if o.certDir == "" {
		o.certDir = filepath.Join(o.RootDir, "pki")
	}
	if o.kubeconfig != "" { // where log collectors of clusters look
		o.LogLinks = filepath.Join(filepath.Dir(o.LogDir), "containers")
	}
	return nil
}

// resolvConf: the system's own name stands for finding the right one (a stub on loopback is of no use to pods).
func resolvConf(path string) string {
	if path == "/etc/resolv.conf" {
		return ""
	}
	return path
}

package kubeletconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxSize bounds each file.
const maxSize = 1 << 20

const (
	apiVersion = "kubelet.config.k8s.io/v1beta1"
	kindName   = "KubeletConfiguration"
)

// Load reads a file, merges the *.conf files of a folder over it in the order of their names, fills in defaults and checks values. Either path may be
// empty. Relative paths inside are below the file's folder. What would be unsafe to ignore is an error (ErrNotImplemented), naming the field.
func Load(file, dropIns string) (*kubeletv1beta1.KubeletConfiguration, error) {
	merged := map[string]any{}
	if file != "" {
		values, err := read(file)
		if err != nil {
			return nil, err
		}
		merged = values
	}
	if dropIns != "" {
		// WalkDir goes in lexical order, as the kubelet's does.
		err := filepath.WalkDir(dropIns, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return fmt.Errorf("reading the folder of configuration files: %w", err)
			}
			if entry.IsDir() || filepath.Ext(path) != ".conf" {
				return nil
			}
			values, err := read(path)
			if err != nil {
				return err
			}
			mergePatch(merged, values)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(merged)
	if err != nil {
		return nil, fmt.Errorf("merging configuration files: %w", err)
	}
	config := &kubeletv1beta1.KubeletConfiguration{}
	if err := json.Unmarshal(data, config); err != nil {
		return nil, fmt.Errorf("merging configuration files: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	config.APIVersion, config.Kind = apiVersion, kindName
	resolvePaths(config, filepath.Dir(file))
	SetDefaults(config)
	return config, errors.Join(check(config), Refused(config))
}

// read reads one file strictly: a field that does not exist, or stands there twice, is a mistake that must not go unnoticed.
func read(path string) (map[string]any, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the kubelet configuration: %w", err)
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("reading the kubelet configuration %s: more than %d bytes: %w", path, maxSize, errdefs.ErrInvalidArgument)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the kubelet configuration: %w", err)
	}
	values, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("reading the kubelet configuration %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return values, nil
}

func decode(data []byte) (map[string]any, error) {
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	config := kubeletv1beta1.KubeletConfiguration{}
	strict, err := kjson.UnmarshalStrict(text, &config)
	if err = errors.Join(append(strict, err)...); err != nil {
		return nil, err
	}
	if config.APIVersion != apiVersion || config.Kind != kindName {
		return nil, fmt.Errorf("it is a %q of %q, not a %s of %s", config.Kind, config.APIVersion, kindName, apiVersion)
	}
	values := map[string]any{}
	if err := json.Unmarshal(text, &values); err != nil {
		return nil, err
	}
	return values, nil
}

// mergePatch applies a JSON merge patch (RFC 7386): maps are merged, lists replaced, null removes.
func mergePatch(into, patch map[string]any) {
	for key, value := range patch {
		inner, isMap := value.(map[string]any)
		before, wasMap := into[key].(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case isMap && wasMap:
			mergePatch(before, inner)
		default:
			into[key] = value
		}
	}
}

// resolvePaths makes the paths absolute that the kubelet makes absolute.
func resolvePaths(c *kubeletv1beta1.KubeletConfiguration, folder string) {
	for _, path := range []*string{&c.StaticPodPath, &c.Authentication.X509.ClientCAFile, &c.TLSCertFile, &c.TLSPrivateKeyFile, c.ResolverConfig, &c.PodLogsDir} {
		if path != nil && *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(folder, *path)
		}
	}
}

// JSON is the configuration as /configz answers it.
func JSON(c *kubeletv1beta1.KubeletConfiguration) ([]byte, error) {
	data, err := json.Marshal(map[string]any{"kubeletconfig": c})
	if err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	return data, nil
}

// check says what is wrong with values, each problem on a line of its own.
func check(c *kubeletv1beta1.KubeletConfiguration) error {
	var problems []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			problems = append(problems, fmt.Errorf("kubelet configuration: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...))
		}
	}
	port := func(name string, value int32, zero bool) {
		wrong(value < 0 || value > 65535 || value == 0 && !zero, "%s is %d, not a port", name, value)
	}
	port("port", c.Port, false)
	port("readOnlyPort", c.ReadOnlyPort, true)
	port("healthzPort", *c.HealthzPort, true)
	percent := func(name string, value int32) {
		wrong(value < 0 || value > 100, "%s is %d, not a percentage", name, value)
	}
	percent("imageGCHighThresholdPercent", *c.ImageGCHighThresholdPercent)
	percent("imageGCLowThresholdPercent", *c.ImageGCLowThresholdPercent)
	wrong(*c.ImageGCLowThresholdPercent >= *c.ImageGCHighThresholdPercent, "imageGCLowThresholdPercent (%d) must be less than imageGCHighThresholdPercent (%d)",
		*c.ImageGCLowThresholdPercent, *c.ImageGCHighThresholdPercent)
	wrong(c.MaxPods < 0, "maxPods is negative")
	wrong(c.PodsPerCore < 0, "podsPerCore is negative")
	wrong(c.NodeLeaseDurationSeconds <= 0, "nodeLeaseDurationSeconds must be greater than 0")
	wrong(c.EventBurst < 0 || *c.EventRecordQPS < 0, "eventRecordQPS and eventBurst must not be negative")
	wrong(c.RegistryBurst < 0 || *c.RegistryPullQPS < 0, "registryPullQPS and registryBurst must not be negative")
	wrong(*c.ContainerLogMaxFiles <= 1, "containerLogMaxFiles must be greater than 1")
	wrong(*c.NodeStatusMaxImages < -1, "nodeStatusMaxImages must be -1 or greater")
	wrong(*c.SerializeImagePulls && c.MaxParallelImagePulls != nil && *c.MaxParallelImagePulls > 1, "maxParallelImagePulls can't be more than 1 unless serializeImagePulls is false")
	wrong(c.CgroupDriver != "cgroupfs" && c.CgroupDriver != "systemd", "cgroupDriver is %q, neither cgroupfs nor systemd", c.CgroupDriver)
	wrong(!strings.Contains(" Webhook AlwaysAllow ", " "+string(c.Authorization.Mode)+" "), "authorization.mode is %q, neither Webhook nor AlwaysAllow", c.Authorization.Mode)
	wrong((c.TLSCertFile == "") != (c.TLSPrivateKeyFile == ""), "tlsCertFile and tlsPrivateKeyFile must both be set")
	for i := range c.RegisterWithTaints {
		wrong(c.RegisterWithTaints[i].Key == "" || c.RegisterWithTaints[i].Effect == "", "registerWithTaints[%d] needs a key and an effect", i)
	}
	return errors.Join(problems...)
}

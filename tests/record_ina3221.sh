#!/bin/bash
# Writes tests/ina3221_tree.txt anew: what Linux's own ina3221 driver shows in /sys.
#
# Debian's arm64 kernel boots in qemu (no KVM) with the power monitors of Jetson AGX Orin in its device tree, as
# arch/arm64/boot/dts/nvidia/tegra234-p3701.dtsi describes them, and a third chip that no device tree describes.
# The chips are i2c-stub's, with registers as after power-on but for the readings; ina3221.c is Debian's source of that
# kernel, unchanged. Only `described.c` below is not Linux's: i2c-stub's bus has no device-tree node to hold chips.
#
# Usage: record_ina3221.sh EMPTY_DIRECTORY > ina3221_tree.txt
# Needs Debian 12 and: apt-get install qemu-system-arm gcc-aarch64-linux-gnu device-tree-compiler busybox make
# It installs nothing: packages are unpacked below EMPTY_DIRECTORY (1.5 GB). About two minutes.
set -euo pipefail
work=$(realpath "$1")
release=6.1.0-56
cd "$work"

fetch() { # Packages of one architecture, into that architecture's directory
	local arch=$1 state=$work/apt-$1 package
	shift
	mkdir -p "$state"/{lists/partial,cache/archives/partial} "$work/$arch/debs"
	touch "$state/status"
	cat >"$state/conf" <<-E
		APT::Architecture "$arch"; APT::Architectures { "$arch"; }; APT::Sandbox::User "root";
		Dir::State "$state"; Dir::State::status "$state/status"; Dir::Cache "$state/cache";
	E
	(cd "$work/$arch/debs" && export APT_CONFIG=$state/conf && apt-get update -qq && apt-get download -qq "$@") >&2
	for package in "$work/$arch/debs"/*.deb; do dpkg -x "$package" "$work/$arch"; done
}
fetch amd64 linux-headers-$release-common linux-kbuild-6.1 linux-source-6.1
fetch arm64 linux-image-$release-arm64 linux-headers-$release-arm64 busybox-static

mkdir -p modules init/{bin,proc,sys,dev,tmp} arm64/usr/lib
tar -C modules --strip-components=3 -xf amd64/usr/src/linux-source-6.1.tar.xz linux-source-6.1/drivers/hwmon/ina3221.c
tar -C modules --strip-components=3 -xf amd64/usr/src/linux-source-6.1.tar.xz linux-source-6.1/drivers/i2c/i2c-stub.c
cat >modules/described.c <<'E'
// SPDX-License-Identifier: GPL-2.0
// Puts every ti,ina3221 of the device tree on bus 0.
#include <linux/i2c.h>
#include <linux/module.h>
#include <linux/of.h>
static int __init described_init(void)
{
	struct i2c_adapter *adapter = i2c_get_adapter(0);
	struct device_node *node;

	if (!adapter)
		return -ENODEV;
	for_each_compatible_node(node, NULL, "ti,ina3221") {
		struct i2c_board_info info = { I2C_BOARD_INFO("ina3221", 0), .of_node = node };
		u32 address = 0;

		of_property_read_u32(node, "reg", &address);
		info.addr = address;
		i2c_new_client_device(adapter, &info);
	}
	return 0;
}
module_init(described_init);
MODULE_LICENSE("GPL");
E
echo 'obj-m := ina3221.o i2c-stub.o described.o' >modules/Makefile
ln -s "$work/amd64/usr/lib/linux-kbuild-6.1" arm64/usr/lib/
headers=$work/arm64/usr/src/linux-headers-$release-arm64
echo "include $work/amd64/usr/src/linux-headers-$release-common/Makefile" >"$headers/Makefile"
make -C "$headers" ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- M="$work/modules" modules >&2

cp "$(find arm64 -name busybox -type f -perm -1 | head -1)" init/bin/
cp modules/*.ko "$(find arm64 -name i2c-dev.ko)" init/
cat >init/init <<'E'
#!/bin/busybox sh
/bin/busybox --install -s /bin; export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
word() { printf 0x%02x%02x $(($1 & 255)) $(($1 >> 8 & 255)); }
register() { i2cset -f -y 0 $1 $2 $(word $3) w; } # The chip sends its high byte first, SMBus the low one
chip() { # Address, then bus voltage / 8 mV and shunt voltage / 40 uV of each channel
	register $1 0xfe 0x5449; register $1 0xff 0x3220; register $1 0x00 0x7127; register $1 0x0f 0x0002
	register $1 0x01 $(($3 << 3)); register $1 0x03 $(($5 << 3)); register $1 0x05 $(($7 << 3))
	register $1 0x02 $(($2 << 3)); register $1 0x04 $(($4 << 3)); register $1 0x06 $(($6 << 3))
	for limit in 0x07 0x08 0x09 0x0a 0x0b 0x0c; do register $1 $limit 0x7ff8; done
	register $1 0x0d $((($3 + $5 + $7) << 1)); register $1 0x0e 0x7ffe
}
record() { # Links, then files with their modes; "!" and the error where a file cannot be read
	for path in $(find /sys/bus/i2c/devices /sys/class/hwmon /sys/devices/i2c-0/0-* | sort); do
		case $path in */uevent | */power/*) continue ;; esac
		if [ -L $path ]; then echo "=link ${path#/} $(readlink $path)"
		elif [ -f $path ]; then
			if cat $path >/tmp/value 2>/tmp/error; then value=$(tr '\n' '~' </tmp/value)
			else value="!$(sed 's/.*: //' /tmp/error)"; fi
			echo "=$(stat -c %a $path) ${path#/} $value"
		fi
	done
}
state() { echo "=[$1]"; record >/tmp/now; grep -vxFf /tmp/first /tmp/now; }
insmod /i2c-dev.ko; insmod /i2c-stub.ko chip_addr=0x40,0x41,0x42
chip 0x40 2489 8 2489 2 621 32; chip 0x41 0 0 621 4 0 0; chip 0x42 627 125 627 250 627 375
insmod /ina3221.ko; insmod /described.ko; echo ina3221 0x42 >/sys/bus/i2c/devices/i2c-0/new_device
echo "=# Linux $(uname -r), $(uname -v)"
echo "=[]"; record | tee /tmp/first
cd /sys/bus/i2c/devices/0-0040/hwmon/hwmon0
echo 0 >in1_enable; state "channel 1 switched off"; echo 1 >in1_enable
echo 1000 >shunt3_resistor; state "shunt 3 of another size"; echo 2000 >shunt3_resistor
register 0x40 0x05 $(((0x10000 - (32 << 3)))); state "current 3 the other way"
echo o >/proc/sysrq-trigger; sleep 9
E
chmod +x init/init
(cd init && find . | busybox cpio -o -H newc) | gzip -1 >init.gz

virt=(qemu-system-aarch64 -cpu cortex-a57 -m 512 -nographic -no-reboot -net none)
"${virt[@]}" -M virt,dumpdtb=virt.dtb >&2
sensor() { echo "power-sensor@$1 { compatible = \"ti,ina3221\"; reg = <0x$1>; #address-cells = <1>; #size-cells = <0>;"; }
rail() { echo "input@$1 { reg = <$1>; label = \"$2\"; shunt-resistor-micro-ohms = <2000>; $3 };"; }
off() { echo "input@$1 { reg = <$1>; status = \"disabled\"; };"; }
{
	dtc -q -I dtb -O dts virt.dtb
	echo "/ { monitors { #address-cells = <1>; #size-cells = <0>;"
	sensor 40 && rail 0 VDD_GPU_SOC "" && rail 1 VDD_CPU_CV "" && rail 2 VIN_SYS_5V0 "ti,summation-disable;" && echo "};"
	sensor 41 && off 0 && rail 1 VDDQ_VDD2_1V8AO "" && off 2 && echo "}; }; };"
} >board.dts
dtc -q -I dts -O dtb board.dts >board.dtb
timeout 120 "${virt[@]}" -M virt -dtb board.dtb -kernel "arm64/boot/vmlinuz-$release-arm64" -initrd init.gz \
	-append "console=ttyAMA0 rdinit=/init loglevel=1 panic=1" </dev/null | tr -d '\r' >console.txt
sed -n 's/^=//p' console.txt
